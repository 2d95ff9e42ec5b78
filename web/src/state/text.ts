/** Parsing the text of a message, and preparing it for sending. */

/** A piece of a message's text. */
export type Part = { kind: 'text' | 'mention' | 'me'; text: string } | { kind: 'link'; text: string; href: string };

const LINK = /\bhttps?:\/\/[^\s<>"'`\u0000-\u001f\u202a-\u202e\u2066-\u2069]+/giu;
const MENTION = /(?<![\p{L}\p{N}_@.])@([\p{L}\p{N}_.-]{1,32})/gu;

/** Splits a text into links, mentions and plain text. Only http and https addresses become links. */
export function parseText(text: string, me: string): Part[] {
  const out: Part[] = [];
  let at = 0;
  for (const match of text.matchAll(LINK)) {
    const address = trimAddress(match[0]);
    if (!isHttpUrl(address)) continue;
    mentions(text.slice(at, match.index), me, out);
    out.push({ kind: 'link', text: address, href: address });
    at = match.index + address.length;
  }
  mentions(text.slice(at), me, out);
  return out;
}

function mentions(text: string, me: string, out: Part[]): void {
  let at = 0;
  for (const match of text.matchAll(MENTION)) {
    const name = match[1]!.replace(/[.-]+$/u, '');
    if (!name) continue;
    if (match.index > at) out.push({ kind: 'text', text: text.slice(at, match.index) });
    out.push({ kind: sameName(name, me) ? 'me' : 'mention', text: `@${name}` });
    at = match.index + 1 + name.length;
  }
  if (at < text.length) out.push({ kind: 'text', text: text.slice(at) });
}

export function mentionsMe(text: string, me: string): boolean {
  return parseText(text, me).some(({ kind }) => kind === 'me');
}

function sameName(a: string, b: string): boolean {
  return a.normalize('NFKC').toLowerCase() === b.normalize('NFKC').toLowerCase();
}

/** Strips trailing punctuation, and closing brackets that were opened before the address. */
function trimAddress(address: string): string {
  const lone = { ')': count(address, ')') - count(address, '('), ']': count(address, ']') - count(address, '[') };
  let end = address.length;
  for (; end > 0; end--) {
    const last = address[end - 1]!;
    if (last === ')' || last === ']') {
      if (lone[last]-- <= 0) break;
    } else if (!'.,;:!?…»”’'.includes(last)) break;
  }
  return address.slice(0, end);
}

function count(text: string, char: string): number {
  return text.split(char).length - 1;
}

function isHttpUrl(text: string): boolean {
  try {
    const { protocol, hostname } = new URL(text);
    return (protocol === 'http:' || protocol === 'https:') && hostname !== '';
  } catch {
    return false;
  }
}

/** The length of a text in UTF-8, which is what the server limits. */
export function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** Removes U+0000, which databases can't store, and replaces lone surrogates. */
export function storable(text: string): string {
  return text.replace(/\0/g, '').replace(/\p{Surrogate}/gu, '\ufffd');
}
