/** Numbers, plurals, lists, days and times, as a language writes them. */
import { sameDay } from '../state/time';

/** How times are written: as is usual in the language, or with this many hours. */
export const CLOCKS = ['language', '12', '24'] as const;
export type Clock = (typeof CLOCKS)[number];

/** A text for each of the language's plural forms. A `#` in them stands for the number. */
export type Forms = Partial<Record<Intl.LDMLPluralRule, string>> & { other: string };

/** `locale`: the language, and maybe a region. */
export function formats(locale: string, clock: Clock = 'language') {
  const numbers = new Intl.NumberFormat(locale);
  const plurals = new Intl.PluralRules(locale);
  const lists = new Intl.ListFormat(locale);
  const hours: Intl.DateTimeFormatOptions =
    clock === 'language' ? {} : { hourCycle: clock === '12' ? 'h12' : 'h23' };
  const dates = new Map<string, Intl.DateTimeFormat>();

  function write(time: number, options: Intl.DateTimeFormatOptions): string {
    const key = JSON.stringify(options);
    let format = dates.get(key);
    if (!format) dates.set(key, (format = new Intl.DateTimeFormat(locale, options)));
    return format.format(time);
  }

  /** “Today” or “Yesterday”. */
  function relative(days: 0 | -1): string {
    const [first = '', ...rest] = new Intl.RelativeTimeFormat(locale, { numeric: 'auto' }).format(days, 'day');
    return first.toLocaleUpperCase(locale) + rest.join('');
  }

  return {
    locale,
    number: (number: number) => numbers.format(number),
    plural: (number: number, forms: Forms) =>
      (forms[plurals.select(number)] ?? forms.other).replace('#', numbers.format(number)),
    /** Such as “Ann, Bob and Cem”. */
    list: (items: readonly string[]) => lists.format(items),
    time: (time: number) => write(time, { hour: '2-digit', minute: '2-digit', ...hours }),
    fullTime: (time: number) => write(time, { dateStyle: 'full', timeStyle: 'medium', ...hours }),
    date: (time: number) => write(time, { dateStyle: 'long' }),
    /** “Today”, “Yesterday”, or the date, with the year if it is not the current one. */
    day(time: number, now: number): string {
      if (sameDay(time, now)) return relative(0);
      const yesterday = new Date(now);
      yesterday.setDate(yesterday.getDate() - 1);
      if (sameDay(time, yesterday.getTime())) return relative(-1);
      const year = new Date(time).getFullYear() !== new Date(now).getFullYear();
      const options: Intl.DateTimeFormatOptions = { weekday: 'long', day: 'numeric', month: 'long' };
      return write(time, year ? { ...options, year: 'numeric' } : options);
    },
  };
}

export type Formats = ReturnType<typeof formats>;
