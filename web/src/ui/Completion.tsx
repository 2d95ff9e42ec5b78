/** What the word before the caret in the message box may become. */
import { useLayoutEffect, useRef } from 'preact/hooks';
import type { Completion as Completed, Option } from '../state/completion';
import { Avatar } from './Avatar';
import { useTexts } from './texts';

interface Props {
  completion: Completed;
  selected: number;
  onChoose: (option: Option) => void;
}

export const COMPLETION_ID = 'completion';
export const optionId = (index: number) => `${COMPLETION_ID}-${index}`;

export function Completion({ completion: { kind, options }, selected, onChoose }: Props) {
  const t = useTexts();
  const list = useRef<HTMLUListElement>(null);
  useLayoutEffect(() => {
    const { classList, parentElement, offsetHeight } = list.current!;
    const top = parentElement!.closest('.scroller')?.getBoundingClientRect().top ?? 0;
    classList.toggle('below', parentElement!.getBoundingClientRect().top - offsetHeight < top);
  });
  return (
    <ul
      ref={list}
      class="completion"
      id={COMPLETION_ID}
      role="listbox"
      aria-label={t.composer.completions[kind]}
    >
      {options.map((option, i) => (
        <li
          key={option.text}
          id={optionId(i)}
          role="option"
          aria-selected={i === selected}
          // The focus stays in the message box.
          onPointerDown={(event) => event.preventDefault()}
          onClick={() => onChoose(option)}
        >
          {option.sign === undefined ? <Avatar name={option.title} /> : <span class="sign">{option.sign}</span>}
          <span class="title">
            <bdi>{option.title}</bdi>
          </span>
          {option.hint !== undefined && (
            <span class="hint title">
              <bdi>{option.hint}</bdi>
            </span>
          )}
        </li>
      ))}
    </ul>
  );
}
