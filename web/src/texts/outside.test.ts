/** No text of the page is outside of the catalogues. */
import { type ESTree, parseSync } from 'vite';
import { expect, it } from 'vitest';

/** What people see, or hear from a screen reader. */
const ATTRIBUTES =
  /^(aria-(label|description|roledescription|placeholder|valuetext)|title|label|placeholder|alt|hint|action)$/;
/** The same in every language. */
const NAME = 'Uproar';

type Node = ESTree.Node | ESTree.JSXElement | ESTree.JSXAttribute;

const isText = (text: string) => /\p{L}{2}/u.test(text.replaceAll(NAME, ''));
const isSentence = (text: string) => /^\p{Lu}[\p{L}’]* [\p{L}’]+/u.test(text);

/** The texts that an expression may come to. */
function valuesOf(node: Node | null): string[] {
  switch (node?.type) {
    case 'Literal':
      return typeof node.value === 'string' ? [node.value] : [];
    case 'TemplateLiteral':
      return [...node.quasis.map(({ value }) => value.raw), ...node.expressions.flatMap(valuesOf)];
    case 'ConditionalExpression':
      return [node.consequent, node.alternate].flatMap(valuesOf);
    case 'LogicalExpression':
      return [node.left, node.right].flatMap(valuesOf);
    case 'BinaryExpression':
      return node.operator === '+' ? [node.left, node.right].flatMap(valuesOf) : [];
    case 'JSXExpressionContainer':
    case 'ParenthesizedExpression':
      return valuesOf(node.expression);
    default:
      return [];
  }
}

function textsIn(code: string, file = 'x.tsx'): string[] {
  const found: string[] = [];
  const visit = (value: unknown): void => {
    if (Array.isArray(value)) return value.forEach(visit);
    if (typeof value !== 'object' || value === null || !('type' in value)) return;
    const node = value as Node;
    if (node.type === 'JSXAttribute') {
      if (typeof node.name.name === 'string' && ATTRIBUTES.test(node.name.name)) {
        found.push(...valuesOf(node.value).filter(isText));
      }
    } else if (node.type === 'JSXElement' || node.type === 'JSXFragment') {
      for (const child of node.children) {
        found.push(...(child.type === 'JSXText' ? [child.value] : valuesOf(child)).filter(isText));
      }
    } else if (node.type === 'Literal' || node.type === 'TemplateLiteral') {
      found.push(...valuesOf(node).filter(isSentence));
    }
    Object.values(node).forEach(visit);
  };
  visit(parseSync(file, code).program);
  return [...new Set(found.map((text) => text.trim()))];
}

it('would be found', () => {
  expect(textsIn('<p>Hello</p>')).toEqual(['Hello']);
  expect(textsIn('<><b>{name}</b> is here</>')).toEqual(['is here']);
  expect(textsIn('<button aria-label="Close" class="quiet" />')).toEqual(['Close']);
  expect(textsIn('<Field label={isNew ? "New" : t.old} />')).toEqual(['New']);
  expect(textsIn('<p>{count === 1 ? "one" : `${count} members`}</p>')).toEqual(['one', 'members']);
  expect(textsIn('<p>{kind === "muted" && t.muted} · {"Uproar"}</p>')).toEqual([]);
  expect(textsIn('setError("Try again later")')).toEqual(['Try again later']);
  expect(textsIn('setError(`No room ${name}`)')).toEqual(['No room']);
});

const sources = import.meta.glob<string>(['../**/*.{ts,tsx}', '!../**/*.test.ts', '!./{en,de}.ts'], {
  query: '?raw',
  import: 'default',
  eager: true,
});

it.each(Object.keys(sources))('is not in %s', (file) => {
  expect(textsIn(sources[file]!, file)).toEqual([]);
});
