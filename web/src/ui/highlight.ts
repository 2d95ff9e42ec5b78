/** The colours of code. What finds them is loaded when there is code in a language that it knows. */
import { useEffect, useReducer } from 'preact/hooks';
import { wait } from '@uproar/client';
import { languageOf } from '../state/code';
import type { Token } from '../state/tokens';

/** The codes that were coloured last, so that they keep their colours when they come back into view. */
const coloured = new Map<string, readonly Token[]>();
const MOST = 100;
/** One code after the other, with time for other work in between. */
let queue = Promise.resolve();

/** The parts of a code in their colours, as soon as there are any. */
export function useTokens(name: string | undefined, text: string): readonly Token[] | undefined {
  const [, rerender] = useReducer((n: number) => n + 1, 0);
  const language = languageOf(name, text);
  const key = `${language} ${text}`;
  const tokens = language && coloured.get(key);
  const isMissing = language !== undefined && tokens === undefined;
  useEffect(() => {
    if (!isMissing) return;
    let isCurrent = true;
    const colour = async () => {
      // It may be out of view by now.
      if (!isCurrent) return;
      const { tokensOf } = await import('../state/tokens');
      const tokens = await tokensOf(language, text);
      if (coloured.size >= MOST) coloured.delete(coloured.keys().next().value!);
      coloured.set(key, tokens);
      if (isCurrent) rerender(0);
      await wait(0);
    };
    // It stays as it is if that can't be loaded now.
    queue = queue.then(colour).catch(() => {});
    return () => {
      isCurrent = false;
    };
  }, [key, isMissing]);
  return tokens;
}
