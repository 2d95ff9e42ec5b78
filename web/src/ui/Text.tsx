import { parseText } from '../state/text';

/** The text of a message, with links and mentions. It is never interpreted as HTML. */
export function Text({ text, me }: { text: string; me: string }) {
  return (
    <>
      {parseText(text, me).map((part, i) =>
        part.kind === 'link' ? (
          <a key={i} href={part.href} target="_blank" rel="noopener noreferrer nofollow">
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
