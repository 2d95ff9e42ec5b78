/** Finding the addresses in a text: of pages, with or without `https://`, and of mailboxes. */
import { SPACELESS } from './mentions';

export interface Link {
  start: number;
  end: number;
  href: string;
}

/**
 * A character of an address. White space, invisible characters, quotes, and the punctuation and fullwidth symbols of
 * other scripts end it, because they belong to the sentence around it. A dot, dash or apostrophe as in titles does not
 * if a letter follows.
 */
const CHAR = String.raw`(?:[·‧・’–](?=[\p{L}\p{N}])|(?![\s\p{C}<>"'\x60\\]|(?![\0-\x7f])[\p{P}\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffef]).)`;
const PAGE = String.raw`(?<!\w)https?:\/\/${CHAR}+|(?<![\w.@\/-])www\.${CHAR}+`;
/** A mailbox may follow a letter of a script that has no spaces, but no other. */
const MAILBOX = String.raw`(?<!(?![${SPACELESS}])[\p{L}\p{M}\p{N}_.%+'@\/-])(?<local>[\w.%+'-]{1,64})@(?<host>(?:[\p{L}\p{N}\p{M}-]{1,63}\.){1,8}(?:[a-z]{2,63}(?![\w-])|(?:(?![\0-\x7f])[\p{L}\p{M}]){2,63}))`;
const ADDRESS = new RegExp(`${PAGE}|${MAILBOX}`, 'giu');

/** Where the name of a host ends if text of another script follows it directly: no top-level domain mixes scripts. */
const GLUED_NAME = /^((?:https?:\/\/|www\.)(?:[^/?#:@]*\.)?[a-z]+)(?![\0-\x7f])[^.:/?#@]*(?:[:/?#]|$)/iu;
const GLUED_PORT = /^(https?:\/\/[^/?#:@]*:\d+)[^\d/?#]/iu;

export function findLinks(text: string): Link[] {
  const links: Link[] = [];
  ADDRESS.lastIndex = 0;
  for (let match; (match = ADDRESS.exec(text)); ) {
    const address = match.groups?.['local'] ? mailbox(match) : page(match[0]);
    if (!address) continue;
    const end = match.index + address.length;
    links.push({ start: match.index, end, href: address.href });
    ADDRESS.lastIndex = end;
  }
  return links;
}

interface Address {
  length: number;
  href: string;
}

function mailbox({ 0: address, groups }: RegExpExecArray): Address | undefined {
  const isValid = /^[\w%+-]/.test(groups!['local']!) && /[\w%+-]$/.test(groups!['local']!);
  const labels = groups!['host']!.split('.');
  if (!isValid || labels.some((label) => label.startsWith('-') || label.endsWith('-'))) return undefined;
  return { length: address.length, href: `mailto:${encodeURI(address).replace(/%25/g, '%')}` };
}

function page(match: string): Address | undefined {
  const glued = GLUED_NAME.exec(match) ?? GLUED_PORT.exec(match);
  const address = glued ? glued[1]! : trim(match);
  const isShort = /^www\./i.test(address);
  try {
    const url = new URL(isShort ? `https://${address}` : address);
    // `https://bank.example@evil.example/` would lead elsewhere than it seems to.
    if (url.hostname === '' || url.username !== '' || url.password !== '') return undefined;
    if (isShort && !/^www\.[^.]+\.[^.]/.test(url.hostname)) return undefined;
    return { length: address.length, href: isShort ? `https://${address}` : address };
  } catch {
    return undefined;
  }
}

/** Strips trailing punctuation, and closing brackets that were opened before the address. */
function trim(address: string): string {
  const lone = { ')': count(address, ')') - count(address, '('), ']': count(address, ']') - count(address, '[') };
  let end = address.length;
  for (; end > 0; end--) {
    const last = address[end - 1]!;
    if (last === ')' || last === ']') {
      if (lone[last]-- <= 0) break;
    } else if (!'.,;:!?'.includes(last)) break;
  }
  return address.slice(0, end);
}

function count(text: string, char: string): number {
  return text.split(char).length - 1;
}
