import { describe, expect, it } from 'vitest';
import { type Language, languageOf } from './code';
import { tokensOf } from './tokens';

const SAMPLES: Record<Language, [code: string, ...tokens: string[]]> = {
  c: ['int main(void) { return 0; } // done', 'int main:name', 'return:keyword', '0:number', '// done:comment'],
  cpp: ['class A { bool b = true; };', 'class:keyword', 'true:number'],
  csharp: ['public string Name = "x";', 'public:keyword', '"x":string'],
  css: ['a { color: red; } /* b */', 'a:keyword', '/* b */:comment'],
  dart: ['final x = 1;', 'final:keyword', '1:number'],
  diff: ['--- a\n+++ b\n-old\n+new', '-old:removed', '+new:added'],
  dockerfile: ['FROM alpine\nRUN apk add curl', 'FROM:keyword', 'RUN:keyword'],
  go: ['func main() { return }', 'func:keyword', 'return:keyword'],
  html: ['<a href="x">y</a><!-- z -->', 'href:name', '"x":string', '<!-- z -->:comment'],
  java: ['private int a = 1;', 'private:keyword', 'int:name', '1:number'],
  javascript: ["const a = 'b'; // c", 'const:keyword', "'b':string", '// c:comment'],
  json: ['{"a": [1, true, "b"]}', '"a":string', '1:number', 'true:number', '"b":string'],
  kotlin: ['fun main() = println("x")', 'fun:keyword', '"x":string'],
  less: ['@a: 1px; // b', '1px:number', '// b:comment'],
  lua: ['local a = "b" -- c', 'local:keyword', '"b":string', '-- c:comment'],
  markdown: ['# Title\n- `code` [a](b)\n```\nx\n```', '# Title\n-:keyword', '`code`:string', '[a](b):name', 'x:string'],
  php: ['<?php\nfunction f($a) { return "b"; } # c', 'function:keyword', '$a:name', '"b":string', '# c:comment'],
  python: ['def f(a): # b\n  return "c"', 'def:keyword', '# b:comment', '"c":string'],
  ruby: ['def f\n  "a" # b\nend', 'def:keyword', '"a":string', '# b:comment', 'end:keyword'],
  rust: ['fn main() { let a = "b"; } // c', 'fn:keyword', 'main:name', '"b":string', '// c:comment'],
  scss: ['$a: 1px; // b', '1px:number', '// b:comment'],
  shell: ['if true; then echo "a"; fi # b', 'if:keyword', '"a":string', '# b:comment'],
  sql: ["SELECT a FROM b WHERE c = 'd' -- e", 'SELECT:keyword', "'d':string", '-- e:comment'],
  swift: ['let a = "b" // c', 'let:keyword', '"b":string', '// c:comment'],
  toml: ['a = "b" # c\n[d]', '"b":string', '# c:comment'],
  typescript: ["interface A { b: 'c' }", 'interface:keyword', "'c':string"],
  yaml: ['a: "b" # c\n- d: 1\n  e f: true', 'a:name', '"b":string', '# c:comment', 'd:name', '1:number', 'true:number'],
};

describe('tokensOf', () => {
  for (const [language, [code, ...expected]] of Object.entries(SAMPLES) as [Language, [string, ...string[]]][]) {
    it(`tells the parts of ${language} apart, and keeps every character`, async () => {
      const tokens = await tokensOf(language, code);
      expect(tokens.map(({ text }) => text).join('')).toBe(code);
      const found = tokens.map(({ text, kind }) => `${text.trim()}:${kind}`);
      for (const token of expected) expect(found).toContain(token);
    });
  }

  it('keeps every character of nasty texts, and comes to an end', async () => {
    const units = ['(', '((a', '[', '{', '<a b="', '"', "'", '\\', '`${', '/[', '#{', '<<A\n', '"\\"', 'r#"', '%w('];
    for (const language of Object.keys(SAMPLES) as Language[]) {
      for (const unit of [...units, 'a: ', '\r', '\t\n', '  \n- ', '\u2028', '😀', "- '", '@@ ', '-', '> ', '[a](']) {
        const line = unit.repeat(Math.ceil(500 / unit.length)).slice(0, 500);
        const code = `${line}\n${line}\n`;
        const tokens = await tokensOf(language, code);
        expect(tokens.map(({ text }) => text).join(''), `${language} ${unit}`).toBe(code);
      }
    }
  }, 60_000);
});

describe('languageOf', () => {
  it('knows languages by their names and endings', () => {
    expect(['Rust', 'rs', 'C++', 'c#', 'bash', 'jsx', 'yml', 'h'].map((name) => languageOf(name, 'x'))).toEqual(
      ['rust', 'rust', 'cpp', 'csharp', 'shell', 'javascript', 'yaml', 'c'],
    );
    const unknown = [undefined, '', 'text', 'constructor', 'klingon'];
    for (const name of unknown) expect(languageOf(name, 'x')).toBeUndefined();
  });

  it('leaves long texts and lines plain', () => {
    expect(languageOf('js', `${'x'.repeat(500)}\n`.repeat(39))).toBe('javascript');
    expect(languageOf('js', 'x'.repeat(501))).toBeUndefined();
    expect(languageOf('js', 'x\n'.repeat(10_001))).toBeUndefined();
  });
});
