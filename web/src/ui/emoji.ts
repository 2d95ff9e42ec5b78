/** Emoji for the page: the data, loaded when they are needed, and what the user chose before. */
import type { EmojiSet, toned } from '../state/emoji';
import { type Habits, readHabits, rememberEmoji } from '../state/emoji-habits';
import { storage } from '../storage';
import { type Code, LANGUAGES } from '../texts/language';

interface Data {
  set: EmojiSet;
  toned: typeof toned;
}

const loaded = new Map<Code, Data>();

/** The data in a language, once they are loaded. */
export const emojiData = (code: Code): Data | undefined => loaded.get(code);

export async function loadEmojiData(code: Code): Promise<Data> {
  const [{ EmojiSet, toned }, translation] = await Promise.all([import('../state/emoji'), LANGUAGES[code].emoji()]);
  const data = loaded.get(code) ?? { set: new EmojiSet(translation?.default), toned };
  loaded.set(code, data);
  return data;
}

export const habits = (user: string): Habits => readHabits(storage, user);
export const remember = (user: string, emoji: string): void => rememberEmoji(storage, user, emoji);
