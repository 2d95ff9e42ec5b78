/** The language of the page, and how it writes times. Both are chosen in this browser. */
import { Store, type StorageLike } from '@uproar/client';
import { type Catalogue, en } from './en';
import { type Clock, type Formats, formats } from './formats';

const LANGUAGE_KEY = 'uproar.language';
const CLOCK_KEY = 'uproar.clock';

type Make = (format: Formats) => Catalogue;

/** The languages by their codes, with their own names. Only English is part of the first screen. */
export const LANGUAGES = {
  en: { name: 'English', load: async (): Promise<Make> => en, emoji: async () => undefined },
  de: {
    name: 'Deutsch',
    load: async (): Promise<Make> => (await import('./de')).de,
    emoji: () => import('virtual:emoji/de'),
  },
};

export type Code = keyof typeof LANGUAGES;
/** The user's choice. Without one, the page has the first of the browser's languages that it knows. */
export type Choice = Code | 'browser';

export interface Texts extends Catalogue {
  code: Code;
  format: Formats;
}

/** A text that is not written yet, because the language may change until it is seen. */
export type Say = (t: Texts) => string;

const isCode = (code: string): code is Code => Object.hasOwn(LANGUAGES, code);
const codeOf = (locale: string) => locale.split('-')[0]!.toLowerCase();

export class Language extends Store {
  choice: Choice = 'browser';
  clock: Clock = 'language';
  texts: Texts;
  private make: Make = en;
  private requests = 0;

  constructor(
    private readonly storage: StorageLike,
    /** The locales that the user prefers, the best one first. */
    private readonly preferred: () => readonly string[],
  ) {
    super();
    this.readClock();
    this.texts = this.write('en');
  }

  /** Loads the language that was chosen before. If it can't be loaded, the page stays as it is. */
  async start(): Promise<void> {
    this.readClock();
    const kept = this.storage.getItem(LANGUAGE_KEY) ?? '';
    await this.load(isCode(kept) ? kept : 'browser').catch(() => {});
  }

  /** Throws if the language can't be loaded. */
  async choose(choice: Choice): Promise<void> {
    await this.load(choice);
    if (choice === 'browser') this.storage.removeItem(LANGUAGE_KEY);
    else this.storage.setItem(LANGUAGE_KEY, choice);
  }

  /** Shows a language without remembering it, or that of the browser if there is no such language. */
  async use(locale: string): Promise<void> {
    const code = codeOf(locale);
    await this.load(isCode(code) ? code : 'browser').catch(() => {});
  }

  chooseClock(clock: Clock): void {
    if (clock === 'language') this.storage.removeItem(CLOCK_KEY);
    else this.storage.setItem(CLOCK_KEY, clock);
    this.clock = clock;
    this.show(this.texts.code);
  }

  /** A key of the browser's storage has been changed by another tab; `null`: all of them. */
  stored(key: string | null): void {
    if (key === null || key === LANGUAGE_KEY || key === CLOCK_KEY) void this.start();
  }

  private async load(choice: Choice): Promise<void> {
    const request = ++this.requests;
    const code = choice === 'browser' ? (this.preferred().map(codeOf).find(isCode) ?? 'en') : choice;
    const make = await LANGUAGES[code].load();
    // Something else has been chosen meanwhile.
    if (request !== this.requests) return;
    this.make = make;
    this.choice = choice;
    this.show(code);
  }

  private show(code: Code): void {
    this.texts = this.write(code);
    this.changed();
  }

  private readClock(): void {
    const kept = this.storage.getItem(CLOCK_KEY);
    this.clock = kept === '12' || kept === '24' ? kept : 'language';
  }

  /** With the region of the user's locale, so that dates are those of their country. */
  private write(code: Code): Texts {
    const locale = this.preferred().find((locale) => codeOf(locale) === code && isValid(locale)) ?? code;
    const format = formats(locale, this.clock);
    return { ...this.make(format), code, format };
  }
}

/** Some systems make browsers report what is no language tag. */
function isValid(locale: string): boolean {
  try {
    return Intl.getCanonicalLocales(locale).length > 0;
  } catch {
    return false;
  }
}
