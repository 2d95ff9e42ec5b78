/**
 * The parts of code that are shown in colours. The parsers go from line to line and from token to token, and only look
 * at the present line, so that even nasty texts take little time, and the page can do something else in between.
 */
import { type StreamParser, StringStream } from '@codemirror/streamparser';
import { simpleMode } from '@codemirror/legacy-modes/mode/simple-mode';
import type { Language } from './code';

export type Kind = 'added' | 'comment' | 'keyword' | 'name' | 'number' | 'removed' | 'string';

export interface Token {
  text: string;
  kind?: Kind | undefined;
}

type Parser = StreamParser<unknown>;

const clike = () => import('@codemirror/legacy-modes/mode/clike');
const css = () => import('@codemirror/legacy-modes/mode/css');
const javascript = () => import('@codemirror/legacy-modes/mode/javascript');

const PARSERS: Record<Language, () => Promise<Parser>> = {
  c: async () => (await clike()).c,
  cpp: async () => (await clike()).cpp,
  csharp: async () => (await clike()).csharp,
  css: async () => (await css()).css,
  dart: async () => (await clike()).dart,
  diff: async () => (await import('@codemirror/legacy-modes/mode/diff')).diff,
  dockerfile: async () => (await import('@codemirror/legacy-modes/mode/dockerfile')).dockerFile,
  go: async () => (await import('@codemirror/legacy-modes/mode/go')).go,
  html: async () => (await import('@codemirror/legacy-modes/mode/xml')).html,
  java: async () => (await clike()).java,
  javascript: async () => (await javascript()).javascript,
  json: async () => (await javascript()).json,
  kotlin: async () => (await clike()).kotlin,
  less: async () => (await css()).less,
  lua: async () => (await import('@codemirror/legacy-modes/mode/lua')).lua,
  markdown: async () => markdown(),
  php: async () => php((await clike()).clike),
  python: async () => (await import('@codemirror/legacy-modes/mode/python')).python,
  ruby: async () => (await import('@codemirror/legacy-modes/mode/ruby')).ruby,
  rust: async () => (await import('@codemirror/legacy-modes/mode/rust')).rust,
  scss: async () => (await css()).sCSS,
  shell: async () => (await import('@codemirror/legacy-modes/mode/shell')).shell,
  sql: async () => (await import('@codemirror/legacy-modes/mode/sql')).standardSQL,
  swift: async () => (await import('@codemirror/legacy-modes/mode/swift')).swift,
  toml: async () => (await import('@codemirror/legacy-modes/mode/toml')).toml,
  typescript: async () => (await javascript()).typescript,
  yaml: async () => yaml(),
};

/** The kinds of what the parsers tell apart, by the words for it. Other words have no colour. */
const KINDS: Record<string, Kind> = {
  atom: 'number',
  attribute: 'name',
  bool: 'number',
  builtin: 'name',
  comment: 'comment',
  def: 'name',
  deleted: 'removed',
  heading: 'keyword',
  inserted: 'added',
  keyword: 'keyword',
  meta: 'comment',
  number: 'number',
  property: 'name',
  string: 'string',
  tag: 'keyword',
  type: 'name',
  variableName: 'name',
};

const TAB = 4;
/** How long the page is kept from other work at once. */
const SLICE_MS = 8;
/** How often a parser may change only its state. */
const MOST_EMPTY = 20;

/** Splits code into tokens. */
export async function tokensOf(language: Language, text: string): Promise<Token[]> {
  const parser = await PARSERS[language]();
  const tokens: Token[] = [];
  const add = (text: string, kind?: Kind) => {
    const last = tokens.at(-1);
    // White space has no colour, so that it goes with what is before it.
    if (last && (last.kind === kind || text.trim() === '')) last.text += text;
    else tokens.push({ text, kind });
  };
  const state = parser.startState?.(TAB) ?? {};
  let end = performance.now() + SLICE_MS;
  for (const [i, line] of text.split('\n').entries()) {
    if (i > 0) add('\n');
    if (performance.now() > end) {
      await new Promise((resolve) => setTimeout(resolve));
      end = performance.now() + SLICE_MS;
    }
    parseLine(parser, state, line, add);
  }
  return tokens;
}

function parseLine(parser: Parser, state: unknown, line: string, add: (text: string, kind?: Kind) => void): void {
  if (line === '') return parser.blankLine?.(state, TAB);
  const stream = new StringStream(line, TAB, TAB);
  for (let empty = 0; !stream.eol();) {
    stream.start = stream.pos;
    const style = parser.token(stream, state);
    if (stream.pos > stream.start) empty = 0;
    else if (++empty < MOST_EMPTY) continue;
    else stream.next();
    add(stream.current(), style?.split(/[ .]/).map((word) => KINDS[word]).find((kind) => kind !== undefined));
  }
}

function php(clike: typeof import('@codemirror/legacy-modes/mode/clike').clike): Parser {
  const words = (text: string) => Object.fromEntries(text.split(' ').map((word) => [word, true]));
  return clike({
    name: 'php',
    keywords: words(
      'abstract and array as break case catch class clone const continue declare default do echo else elseif empty ' +
      'enum extends final finally fn for foreach from function global goto if implements include include_once ' +
      'instanceof insteadof interface isset list match namespace new or print private protected public readonly ' +
      'require require_once return static switch throw trait try unset use var while xor yield',
    ),
    types: words('bool callable float int iterable mixed never object self string void'),
    atoms: words('true false null TRUE FALSE NULL'),
    multiLineStrings: true,
    isIdentifierChar: /[\w$\xa1-\uffff]/,
    hooks: {
      $: (stream: StringStream) => {
        stream.eatWhile(/[\w\xa1-\uffff]/);
        return 'def';
      },
      '#': (stream: StringStream) => {
        if (stream.eat('[')) return 'meta';
        stream.skipToEnd();
        return 'comment';
      },
      '<': (stream: StringStream) => (stream.match(/^\?(?:php|=)?/) ? 'meta' : false),
      '?': (stream: StringStream) => (stream.eat('>') ? 'meta' : false),
    },
  });
}

/** Not the one of CodeMirror, which takes exponential time. */
function yaml(): Parser {
  const key = /(?:"(?:\\.|[^"\\])*"|'[^']*'|[\w./$-][\w./$@-]*(?: [\w./$@-]+)*)(?=\s*:(?:\s|$))/;
  return simpleMode({
    start: [
      { regex: /#.*|(?:---|\.\.\.)(?=\s|$)/, sol: true, token: 'comment' },
      { regex: /\s+#.*/, token: 'comment' },
      { regex: /\s+|[[\]{},:]/, token: null },
      { regex: /-(?=\s|$)/, token: 'keyword' },
      { regex: key, token: 'attribute' },
      { regex: /[|>][-+\d]*(?=\s|$)|[&*!][\w!-]+/, token: 'keyword' },
      { regex: /"(?:\\.|[^"\\])*"?|'[^']*'?/, token: 'string' },
      { regex: /(?:true|false|null|yes|no|on|off|~)(?=\s*(?:[,\]}]|$))/i, token: 'atom' },
      { regex: /[-+]?(?:0x[\da-f]+|\d[\d_]*(?:\.\d+)?(?:e[-+]?\d+)?)(?=\s*(?:[,\]}]|$))/i, token: 'number' },
      { regex: /[^\s[\]{},:]+/, token: null },
    ],
  }) as Parser;
}

/** CodeMirror's own takes another way than these parsers. */
function markdown(): Parser {
  return simpleMode({
    start: [
      { regex: /#{1,6}\s.*/, sol: true, token: 'heading' },
      { regex: /(?:```|~~~).*/, sol: true, token: 'comment', next: 'fence' },
      { regex: />.*/, sol: true, token: 'comment' },
      { regex: /\s*(?:[-*+]|\d+[.)])(?=\s)/, sol: true, token: 'keyword' },
      { regex: /`[^`]+`/, token: 'string' },
      { regex: /!?\[[^\][]*\]\([^()\s]*\)/, token: 'attribute' },
      { regex: /\*\*[^*\s][^*]*\*\*|__[^_\s][^_]*__/, token: 'number' },
      { regex: /\w+|\s+/, token: null },
    ],
    fence: [
      { regex: /(?:```|~~~).*/, sol: true, token: 'comment', next: 'start' },
      { regex: /.+/, token: 'string' },
    ],
  }) as Parser;
}
