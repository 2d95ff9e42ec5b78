/** The choice of the page's language, and of how times are written. */
import { useState } from 'preact/hooks';
import { CLOCKS, type Clock } from '../texts/formats';
import { type Choice, LANGUAGES } from '../texts/language';
import { language, useTexts } from './texts';

export function LanguageChoice() {
  const t = useTexts().language;
  return (
    <fieldset>
      <legend>{t.title}</legend>
      <LanguageSelect />
      <label class="variable">
        {t.clock}
        <select
          value={language.clock}
          onChange={({ currentTarget: { value } }) => language.chooseClock(value as Clock)}
        >
          {CLOCKS.map((clock) => (
            <option key={clock} value={clock}>
              {t.clocks[clock]}
            </option>
          ))}
        </select>
      </label>
    </fieldset>
  );
}

export function LanguageSelect() {
  const t = useTexts().language;
  const [hasFailed, setFailed] = useState(false);
  return (
    <>
      <label class="variable">
        {t.language}
        <select
          value={language.choice}
          onChange={async ({ currentTarget: select }) => {
            setFailed(false);
            try {
              await language.choose(select.value as Choice);
            } catch {
              select.value = language.choice;
              setFailed(true);
            }
          }}
        >
          <option value="browser">{t.likeBrowser}</option>
          {Object.entries(LANGUAGES).map(([code, { name }]) => (
            <option key={code} value={code} lang={code}>
              {name}
            </option>
          ))}
        </select>
      </label>
      {hasFailed && (
        <p class="error" role="alert">
          {t.failed}
        </p>
      )}
    </>
  );
}
