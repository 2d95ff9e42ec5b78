/** Which code can be shown in colours. The colours themselves are in `tokens.ts`, which is loaded when there is any. */

/** The languages, with the other names that a fence may call them by. */
const LANGUAGES = {
  c: 'h',
  cpp: 'c++ cc cxx hpp',
  csharp: 'c# cs',
  css: '',
  dart: '',
  diff: 'patch',
  dockerfile: 'docker',
  go: 'golang',
  html: 'htm svg vue xml',
  java: '',
  javascript: 'cjs js jsx mjs',
  json: 'json5 jsonc',
  kotlin: 'kt kts',
  less: '',
  lua: '',
  markdown: 'md',
  php: '',
  python: 'py',
  ruby: 'rb',
  rust: 'rs',
  scss: 'sass',
  shell: 'bash console sh zsh',
  sql: 'mysql postgresql sqlite',
  swift: '',
  toml: 'ini',
  typescript: 'cts mts ts tsx',
  yaml: 'yml',
};

export type Language = keyof typeof LANGUAGES;

const byName = new Map<string, Language>();
for (const [language, others] of Object.entries(LANGUAGES) as [Language, string][]) {
  for (const name of `${language} ${others}`.trim().split(' ')) byName.set(name, language);
}

/** The longest text and the longest line that are coloured. Some languages take quadratic time within a line. */
const LONGEST_TEXT = 20_000;
const LONGEST_LINE = 500;
const LONG_LINE = new RegExp(`[^\\n]{${LONGEST_LINE + 1}}`);

/** The language in which a code is coloured, if it is. */
export function languageOf(name: string | undefined, text: string): Language | undefined {
  if (name === undefined || text.length > LONGEST_TEXT || LONG_LINE.test(text)) return undefined;
  return byName.get(name.toLowerCase());
}
