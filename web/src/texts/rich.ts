import type { ComponentChild } from 'preact';

/** A text with elements of the page in it. */
export function rich(texts: TemplateStringsArray, ...elements: ComponentChild[]): ComponentChild[] {
  return texts.flatMap((text, i) => (i < elements.length ? [text, elements[i]] : [text]));
}
