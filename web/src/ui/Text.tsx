import type { Names } from '../state/mentions';
import { parseText } from '../state/text';

interface Props {
  text: string;
  me: string;
  names: Names;
  /** Whether Tab leads to the links. */
  isReachable: boolean;
}

/** The text of a message, with links and mentions. It is never interpreted as HTML. */
export function Text({ text, me, names, isReachable }: Props) {
  return (
    <>
      {parseText(text, me, names).map((part, i) =>
        part.kind === 'link' ? (
          <a
            key={i}
            href={part.href}
            // A mail program opens without a tab.
            {...(part.href.startsWith('mailto:') ? {} : { target: '_blank' })}
            rel="noopener noreferrer nofollow"
            tabIndex={isReachable ? 0 : -1}
          >
            {part.text}
          </a>
        ) : part.kind === 'text' ? (
          part.text
        ) : (
          <span key={i} class={part.kind === 'me' ? 'mention me' : 'mention'}>
            {part.text}
          </span>
        ),
      )}
    </>
  );
}
