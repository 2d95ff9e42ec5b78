import { describe, expect, it } from 'vitest';
import { Memory } from '@uproar/client';
import { Language, LANGUAGES } from './language';

async function started(preferred: string[], storage = new Memory()): Promise<Language> {
  const language = new Language(storage, () => preferred);
  await language.start();
  return language;
}

const shown = ({ texts }: Language) => [texts.settings.title, texts.format.locale];

describe('the language', () => {
  it('is the first of the browser’s that exists, with its region', async () => {
    expect(shown(await started(['fr-FR', 'de-AT', 'en-GB']))).toEqual(['Einstellungen', 'de-AT']);
    expect(shown(await started(['en-GB', 'de']))).toEqual(['Settings', 'en-GB']);
    expect(shown(await started(['fr-FR']))).toEqual(['Settings', 'en']);
    expect(shown(await started(['de_DE@euro', 'en-US@posix']))).toEqual(['Settings', 'en']);
    expect(shown(await started([]))).toEqual(['Settings', 'en']);
  });

  it('is remembered when it was chosen, until the browser’s is chosen again', async () => {
    const storage = new Memory();
    const language = await started(['en-GB', 'de-CH'], storage);
    let changes = 0;
    language.subscribe(() => changes++);
    await language.choose('de');
    expect([shown(language), changes]).toEqual([['Einstellungen', 'de-CH'], 1]);
    const next = await started(['en-GB'], storage);
    expect([shown(next), next.choice]).toEqual([['Einstellungen', 'de'], 'de']);
    await next.choose('browser');
    expect([shown(next), storage.keys()]).toEqual([['Settings', 'en-GB'], []]);
  });

  it('is the one that was chosen last, whatever is loaded last', async () => {
    const language = await started(['en']);
    const { load } = LANGUAGES.de;
    let finish!: () => void;
    LANGUAGES.de.load = async () => {
      await new Promise<void>((done) => (finish = done));
      return load();
    };
    const first = language.choose('de');
    await language.choose('en');
    finish();
    await first;
    LANGUAGES.de.load = load;
    expect([language.texts.code, language.choice]).toEqual(['en', 'en']);
    expect((await started(['de'])).texts.code).toBe('de');
  });

  it('stays if another one can’t be loaded', async () => {
    const { load } = LANGUAGES.de;
    LANGUAGES.de.load = () => Promise.reject(new Error('offline'));
    const storage = new Memory();
    const language = await started(['de', 'en'], storage);
    expect(language.texts.code).toBe('en');
    await expect(language.choose('de')).rejects.toThrow('offline');
    LANGUAGES.de.load = load;
    expect([language.texts.code, storage.keys()]).toEqual(['en', []]);
  });

  it('follows another tab, and survives what is no language', async () => {
    const storage = new Memory();
    const language = await started(['en-US'], storage);
    storage.setItem('uproar.language', 'de');
    storage.setItem('uproar.clock', '12');
    language.stored('uproar.language');
    await expect.poll(() => shown(language)).toEqual(['Einstellungen', 'de']);
    expect(language.clock).toBe('12');
    storage.setItem('uproar.language', 'constructor');
    storage.setItem('uproar.clock', '13');
    language.stored(null);
    await expect.poll(() => shown(language)).toEqual(['Settings', 'en-US']);
    expect(language.clock).toBe('language');
  });

  it('writes times as was chosen', async () => {
    const storage = new Memory();
    const language = await started(['en-GB'], storage);
    const time = ({ texts }: Language) => texts.format.time(new Date(2026, 10, 28, 21, 5).getTime());
    expect(time(language)).toBe('21:05');
    language.chooseClock('12');
    expect(time(language)).toMatch(/^09:05\spm$/);
    expect(time(await started(['en-GB'], storage))).toMatch(/^09:05\spm$/);
    language.chooseClock('language');
    expect([time(language), storage.keys()]).toEqual(['21:05', []]);
  });
});
