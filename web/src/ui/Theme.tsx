/** The appearance that the user chose. */
import { remember, storage } from '../storage';

type Scheme = 'light' | 'dark';
type Values = Record<string, string>;

/** What the user can change, stored in this browser. Each colour scheme has its own colours. */
export interface Theme {
  mode: 'system' | Scheme;
  light: Values;
  dark: Values;
  sizes: Values;
}

const KEY = 'uproar.theme';

/** The colours that the user can change, with their defaults, which are those of style.css. */
const COLOURS: readonly { name: string; label: string; light: string; dark: string }[] = [
  { name: '--accent', label: 'Accent colour', light: '#b4431f', dark: '#f0835c' },
  { name: '--paper', label: 'Background', light: '#ffffff', dark: '#171614' },
  { name: '--ink', label: 'Text colour', light: '#1d1b19', dark: '#e6e1da' },
];

interface Size {
  name: string;
  label: string;
  initial: number;
  min: number;
  max: number;
  step: number;
  unit: string;
}

const SIZES: readonly Size[] = [
  { name: '--size', label: 'Text size', initial: 15, min: 12, max: 22, step: 1, unit: 'px' },
  { name: '--leading', label: 'Line height', initial: 1.45, min: 1.2, max: 1.9, step: 0.05, unit: '' },
  { name: '--measure', label: 'Line length', initial: 78, min: 40, max: 140, step: 2, unit: 'ch' },
];

export function loadTheme(): Theme {
  let kept: Partial<Theme> | null;
  try {
    kept = JSON.parse(storage.getItem(KEY) ?? '{}') as Partial<Theme> | null;
  } catch {
    kept = null;
  }
  const { mode } = kept ?? {};
  const pick = (values: unknown, names: readonly { name: string }[]): Values => {
    const known = names.flatMap(({ name }) => {
      const value = (values as Values | undefined)?.[name];
      return typeof value === 'string' ? [[name, value]] : [];
    });
    return Object.fromEntries(known) as Values;
  };
  return {
    mode: mode === 'light' || mode === 'dark' ? mode : 'system',
    light: pick(kept?.light, COLOURS),
    dark: pick(kept?.dark, COLOURS),
    sizes: pick(kept?.sizes, SIZES),
  };
}

export function saveTheme(theme: Theme): void {
  remember(KEY, JSON.stringify(theme));
  applyTheme(theme);
}

export function applyTheme({ mode, light, dark, sizes }: Theme): void {
  const root = document.documentElement;
  root.dataset['theme'] = mode;
  const set = (name: string, value: string | undefined) => {
    if (value === undefined) root.style.removeProperty(name);
    else root.style.setProperty(name, value);
  };
  for (const colour of COLOURS) {
    const { name } = colour;
    const isChosen = light[name] !== undefined || dark[name] !== undefined;
    set(name, isChosen ? `light-dark(${light[name] ?? colour.light}, ${dark[name] ?? colour.dark})` : undefined);
  }
  for (const { name } of SIZES) set(name, sizes[name]);
}

/** The colour scheme on screen. */
function schemeOf({ mode }: Theme): Scheme {
  if (mode !== 'system') return mode;
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

export function ThemeEditor({ theme, onChange }: { theme: Theme; onChange: (theme: Theme) => void }) {
  const scheme = schemeOf(theme);
  return (
    <fieldset>
      <legend>Appearance</legend>
      <div class="choices" role="radiogroup" aria-label="Theme">
        {(['system', 'light', 'dark'] as const).map((mode) => (
          <label class="check" key={mode}>
            <input
              type="radio"
              name="mode"
              checked={theme.mode === mode}
              onChange={() => onChange({ ...theme, mode })}
            />
            {{ system: 'System', light: 'Light', dark: 'Dark' }[mode]}
          </label>
        ))}
      </div>
      {COLOURS.map((colour) => (
        <label class="variable" key={colour.name}>
          {colour.label}
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
          {label}
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
      <p class="hint">These colours apply to the {scheme} theme only.</p>
      <button type="button" onClick={() => onChange({ ...theme, light: {}, dark: {}, sizes: {} })}>
        Reset
      </button>
    </fieldset>
  );
}
