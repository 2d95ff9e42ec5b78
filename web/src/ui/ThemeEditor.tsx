/** The fields for the appearance. */
import { useTexts } from './texts';
import { COLOURS, SIZES, type Scheme, type Theme, isAdjusted } from './theme';

/** The colour scheme on screen. */
function schemeOf({ mode }: Theme): Scheme {
  if (mode !== 'system') return mode;
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

export function ThemeEditor({ theme, onChange }: { theme: Theme; onChange: (theme: Theme) => void }) {
  const t = useTexts().appearance;
  const scheme = schemeOf(theme);
  return (
    <fieldset>
      <legend>{t.title}</legend>
      <div class="choices" role="radiogroup" aria-label={t.theme}>
        {(['system', 'light', 'dark'] as const).map((mode) => (
          <label class="check" key={mode}>
            <input
              type="radio"
              name="mode"
              checked={theme.mode === mode}
              onChange={() => onChange({ ...theme, mode })}
            />
            {t.modes[mode]}
          </label>
        ))}
      </div>
      {COLOURS.map((colour) => (
        <label class="variable" key={colour.name}>
          {t[colour.label]}
          <input
            type="color"
            value={theme[scheme][colour.name] ?? colour[scheme]}
            onInput={({ currentTarget: { value } }) =>
              onChange({ ...theme, [scheme]: { ...theme[scheme], [colour.name]: value } })
            }
          />
        </label>
      ))}
      {SIZES.map(({ name, label, initial, min, max, step, unit }) => (
        <label class="variable" key={name}>
          {t[label]}
          <input
            type="range"
            min={min}
            max={max}
            step={step}
            value={parseFloat(theme.sizes[name] ?? String(initial))}
            onInput={({ currentTarget: { value } }) =>
              onChange({ ...theme, sizes: { ...theme.sizes, [name]: `${value}${unit}` } })
            }
          />
        </label>
      ))}
      <p class="hint">
        {t.applies[scheme]} {isAdjusted(scheme, theme[scheme]) && t.adjusted}
      </p>
      <button type="button" onClick={() => onChange({ ...theme, light: {}, dark: {}, sizes: {} })}>
        {t.reset}
      </button>
    </fieldset>
  );
}
