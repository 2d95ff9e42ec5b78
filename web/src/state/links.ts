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
const ASCII = String.raw`(?![\s\p{C}<>"'\x60\\])[\0-\x7f]`;
const CHAR =
  String.raw`(?:${ASCII}|[·‧・’–](?=[\p{L}\p{N}])` +
  String.raw`|(?![\s\p{C}\p{P}\0-\x7f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffef]).)`;
const LABEL = String.raw`(?:[\p{L}\p{M}\p{N}-]|[·・](?=\p{L}))+`;
/** No host has more. */
const MAX_LABELS = 40;
/** The name of a host, or an IPv4 address. The last label has no underscore unless it is the only one. */
const HOST =
  String.raw`(?!-)(?:[a-z\d-]+_[\w-]*(?![\w.\p{L}\p{M}-])` +
  String.raw`|(?:(?:[a-z\d-]*_[\w-]*|${LABEL})\.){0,${MAX_LABELS}}${LABEL})`;
const SERVER =
  String.raw`(?:(?<!\w)(?<scheme>https?:\/\/)(?:(?<name>${HOST})|\[[\da-f:.]+\])` +
  String.raw`|(?<![\w.@\/-])(?<short>www\.${HOST}))(?::\d{1,5}(?!\d))?`;
/** A mailbox may follow a letter of a script that has no spaces, but no other. */
const MAILBOX =
  String.raw`(?<!(?![${SPACELESS}])[\p{L}\p{M}\p{N}_.%+'@\/-])(?<local>[\w.%+'-]{1,64})@` +
  String.raw`(?<host>(?:[\p{L}\p{N}\p{M}-]{1,63}\.){1,8}(?:[a-z]{2,63}(?!\w|-\w)|(?:(?![\0-\x7f])[\p{L}\p{M}]){2,63}))`;
const ADDRESS = new RegExp(`${SERVER}|${MAILBOX}`, 'giu');

/** A letter or symbol with which a sentence in another script than Latin goes on. */
const FOREIGN = String.raw`(?![\0-\x7f]|\p{Script=Latin})[\p{L}\p{S}]`;
const BEGINS_FOREIGN = new RegExp(`^${FOREIGN}`, 'u');
const TOP_LEVEL = /^[a-z]{2,}$/i;
/** No top-level domain mixes scripts, or has a hyphen or another mark. */
const GLUED_TOP_LEVEL = new RegExp(`^(?!xn--)[a-z\\d]+(?=[-·・]|${FOREIGN})`, 'iu');
const GLUED_NAME = new RegExp(`^[a-z\\d]+(?:-+[a-z\\d]+)*(?=-*(?:${FOREIGN}|$))`, 'iu');
/** Text of another script ends it after a letter, a digit or the end of a clause if it is ASCII so far. */
const PATH = new RegExp(`[/?#](?:${ASCII})*(?:(?<=[a-z\\d,.;!?)\\]}*~])(?=${FOREIGN})|${CHAR}*)`, 'iuy');
const USER_END = new RegExp(`@${CHAR}*`, 'uy');

export function findLinks(text: string): Link[] {
  const links: Link[] = [];
  const userEnd = userEndIn(text);
  ADDRESS.lastIndex = 0;
  for (let match; (match = ADDRESS.exec(text));) {
    const groups = match.groups!;
    let { lastIndex } = ADDRESS;
    let address: Address | undefined;
    if (groups['local']) address = mailbox(groups);
    else {
      // `https://bank.example@evil.example/` would lead elsewhere than it seems to.
      const end = userEnd(lastIndex);
      if (end === undefined) {
        PATH.lastIndex = lastIndex;
        address = page(match, () => PATH.exec(text)?.[0] ?? '');
      } else lastIndex = end;
    }
    const end = address ? match.index + address.length : lastIndex;
    if (address) links.push({ start: match.index, end, href: address.href });
    ADDRESS.lastIndex = end;
  }
  return links;
}

/** Finds where an address ends whose host was none but a user and a password. To be asked from left to right. */
function userEndIn(text: string): (hostEnd: number) => number | undefined {
  const delimiters = /[\s/?#@]/g;
  let next = -1;
  return (hostEnd) => {
    let at = hostEnd;
    if (text[at] === ':') {
      if (next <= at) {
        delimiters.lastIndex = at;
        next = delimiters.exec(text)?.index ?? text.length;
      }
      at = next;
    }
    if (text[at] !== '@') return undefined;
    USER_END.lastIndex = at;
    USER_END.exec(text);
    return USER_END.lastIndex;
  };
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

function page({ 0: match, groups }: RegExpExecArray, path: () => string): Address | undefined {
  const { scheme = '', name, short } = groups as Groups;
  const host = name ?? short;
  const own = host && unglued(host);
  if (own !== undefined && own.split('.').length > MAX_LABELS) return undefined;
  const address = own === host ? trim(match + path()) : `${scheme}${own}`;
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
