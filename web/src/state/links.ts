/** Finding the addresses in a text: of pages, with or without `https://`, and of mailboxes. */
import { SPACELESS } from './mentions';

export interface Link {
  start: number;
  end: number;
  href: string;
}

/**
 * A character of a path. White space, invisible characters, quotes, and the punctuation and fullwidth symbols of other
 * scripts end it, because they belong to the sentence around it. A dot, dash or apostrophe as in titles does not if a
 * letter follows.
 */
const CHAR =
  String.raw`(?:[·‧・’–](?=[\p{L}\p{N}])` +
  String.raw`|(?![\s\p{C}<>"'\x60\\]|(?![\0-\x7f])` +
  String.raw`[\p{P}\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffef]).)`;
const LABEL = String.raw`(?:[\p{L}\p{M}\p{N}-]|[·・](?=\p{L}))+`;
/** The name of a host, or an IPv4 address. The last label has no underscore unless it is the only one. */
const HOST = String.raw`(?!-)(?:[a-z\d-]+_[\w-]*(?![\w.\p{L}\p{M}-])|(?:(?:[a-z\d-]*_[\w-]*|${LABEL})\.)*${LABEL})`;
const SERVER =
  String.raw`(?:(?<!\w)(?<scheme>https?:\/\/)(?:(?<name>${HOST})|\[[\da-f:.]+\])` +
  String.raw`|(?<![\w.@\/-])(?<short>www\.${HOST}))`;
/** What may follow it. Any other character belongs to the sentence. */
const REST = String.raw`(?::\d{1,5}(?!\d))?(?<user>(?::[^\s\/?#@]*)?@${CHAR}*)?(?<path>[\/?#]${CHAR}*)?`;
/** A mailbox may follow a letter of a script that has no spaces, but no other. */
const MAILBOX =
  String.raw`(?<!(?![${SPACELESS}])[\p{L}\p{M}\p{N}_.%+'@\/-])(?<local>[\w.%+'-]{1,64})@` +
  String.raw`(?<host>(?:[\p{L}\p{N}\p{M}-]{1,63}\.){1,8}(?:[a-z]{2,63}(?!\w|-\w)|(?:(?![\0-\x7f])[\p{L}\p{M}]){2,63}))`;
const ADDRESS = new RegExp(`${SERVER}${REST}|${MAILBOX}`, 'giu');

/** A letter or symbol with which a sentence in another script than Latin goes on. */
const FOREIGN = String.raw`(?![\0-\x7f]|\p{Script=Latin})[\p{L}\p{S}]`;
const BEGINS_FOREIGN = new RegExp(`^${FOREIGN}`, 'u');
const TOP_LEVEL = /^[a-z]{2,}$/i;
/** No top-level domain mixes scripts, or has a hyphen or another mark. */
const GLUED_TOP_LEVEL = new RegExp(`^(?!xn--)[a-z\\d]+(?=[-·・]|${FOREIGN})`, 'iu');
const GLUED_NAME = new RegExp(`^[a-z\\d]+(?:-+[a-z\\d]+)*(?=-*(?:${FOREIGN}|$))`, 'iu');
/** Text of another script that follows a letter, a digit or the end of a clause in an address that is ASCII so far. */
const GLUED_PATH = new RegExp(`^[\\0-\\x7f]*[a-z\\d,.;!?)\\]}*~](?=${FOREIGN})`, 'iu');

export function findLinks(text: string): Link[] {
  const links: Link[] = [];
  ADDRESS.lastIndex = 0;
  for (let match; (match = ADDRESS.exec(text));) {
    const address = match.groups!['local'] ? mailbox(match.groups!) : page(match);
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

type Groups = Record<string, string | undefined>;

function mailbox({ local, host }: Groups): Address | undefined {
  const isValid = /^[\w%+-]/.test(local!) && /[\w%+-]$/.test(local!);
  const name = unglued(host!);
  if (!isValid || name.split('.').some(label => label.startsWith('-') || label.endsWith('-'))) return undefined;
  const address = `${local}@${name}`;
  return { length: address.length, href: `mailto:${encodeURI(address).replace(/%25/g, '%')}` };
}

function page({ 0: match, groups }: RegExpExecArray): Address | undefined {
  const { scheme = '', name, short, user, path = '' } = groups as Groups;
  // `https://bank.example@evil.example/` would lead elsewhere than it seems to.
  if (user !== undefined) return undefined;
  const host = name ?? short;
  const own = host && unglued(host);
  const address = own === host ? withoutSentence(match, path) : `${scheme}${own}`;
  try {
    const { hostname } = new URL(short ? `https://${address}` : address);
    if (hostname === '' || (short && !/^www\.[^.]+\.[^.]/.test(hostname))) return undefined;
    return { length: address.length, href: short ? `https://${address}` : address };
  } catch {
    return undefined;
  }
}

/** The name of a host without the sentence that follows it directly, or after a dot. */
function unglued(host: string): string {
  const labels = host.split('.');
  const first = /^www$/i.test(labels[0]!) ? 1 : 0;
  const next = labels.findIndex((label, i) => {
    return i > first + 1 && BEGINS_FOREIGN.test(label) && TOP_LEVEL.test(labels[i - 1]!);
  });
  if (next > 0) return labels.slice(0, next).join('.');
  const last = labels.pop()!;
  const own = (labels.length > first ? GLUED_TOP_LEVEL : GLUED_NAME).exec(last)?.[0];
  return [...labels, own ?? last].join('.');
}

/** An address without what its path has of the sentence around it. */
function withoutSentence(address: string, path: string): string {
  const own = GLUED_PATH.exec(path)?.[0];
  return trim(own === undefined ? address : address.slice(0, own.length - path.length));
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
