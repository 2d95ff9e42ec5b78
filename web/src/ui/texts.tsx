/** The texts of the page for its components, which are rendered again when the language changes. */
import { type ComponentChildren, createContext } from 'preact';
import { useContext, useLayoutEffect } from 'preact/hooks';
import { Language, type Texts } from '../texts/language';
import { storage } from '../storage';
import { useStores } from './hooks';

export const language = new Language(storage, () =>
  typeof navigator === 'undefined' ? [] : navigator.languages,
);

export const TextsContext = createContext<Texts>(language.texts);

export const useTexts = (): Texts => useContext(TextsContext);

export function WithTexts({ children }: { children: ComponentChildren }) {
  useStores(language);
  const { texts } = language;
  useLayoutEffect(() => {
    document.documentElement.lang = texts.format.locale;
  }, [texts]);
  return <TextsContext.Provider value={texts}>{children}</TextsContext.Provider>;
}
