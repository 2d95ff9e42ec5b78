/** The names that a mention in the message box may become. */
import { Avatar } from './Avatar';

interface Props {
  names: readonly string[];
  selected: number;
  onChoose: (name: string) => void;
}

export const MENTIONS_ID = 'mentions';
export const mentionId = (index: number) => `${MENTIONS_ID}-${index}`;

export function Mentions({ names, selected, onChoose }: Props) {
  return (
    <ul class="mentions" id={MENTIONS_ID} role="listbox" aria-label="People to mention">
      {names.map((name, i) => (
        <li
          key={name}
          id={mentionId(i)}
          role="option"
          aria-selected={i === selected}
          // The focus stays in the message box.
          onPointerDown={(event) => event.preventDefault()}
          onClick={() => onChoose(name)}
        >
          <Avatar name={name} />
          <span class="title">
            <bdi>{name}</bdi>
          </span>
        </li>
      ))}
    </ul>
  );
}
