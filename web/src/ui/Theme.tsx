import { keep, remember } from '../keep';

/** What a person may change about the looks, kept in this browser. */
export interface Theme {
  mode: 'system' | 'light' | 'dark';
  variables: Record<string, string>;
}

const KEY = 'uproar.theme';

export const VARIABLES: readonly { name: string; label: string; type: 'color' | 'range'; initial: string; min?: number; max?: number; step?: number; unit?: string }[] = [
  { name: '--accent', label: 'Accent colour', type: 'color', initial: '#b4431f' },
  { name: '--paper', label: 'Background', type: 'color', initial: '#ffffff' },
  { name: '--ink', label: 'Text colour', type: 'color', initial: '#1d1b19' },
  { name: '--size', label: 'Text size', type: 'range', initial: '15px', min: 12, max: 22, step: 1, unit: 'px' },
  { name: '--leading', label: 'Line height', type: 'range', initial: '1.45', min: 1.2, max: 1.9, step: 0.05, unit: '' },
  { name: '--measure', label: 'Line length', type: 'range', initial: '78ch', min: 40, max: 140, step: 2, unit: 'ch' },
];

export function loadTheme(): Theme {
  try {
    const theme = JSON.parse(keep.getItem(KEY) ?? '') as Partial<Theme>;
    const mode = theme.mode === 'light' || theme.mode === 'dark' ? theme.mode : 'system';
    const variables: Record<string, string> = {};
    for (const { name } of VARIABLES) {
      const value = theme.variables?.[name];
      if (typeof value === 'string') variables[name] = value;
    }
    return { mode, variables };
  } catch {
    return { mode: 'system', variables: {} };
  }
}

export function saveTheme(theme: Theme): void {
  remember(KEY, JSON.stringify(theme));
  applyTheme(theme);
}

export function applyTheme({ mode, variables }: Theme): void {
  const root = document.documentElement;
  root.dataset['theme'] = mode;
  for (const { name } of VARIABLES) {
    const value = variables[name];
    if (value === undefined) root.style.removeProperty(name);
    else root.style.setProperty(name, value);
  }
}

export function ThemeEditor({ theme, onChange }: { theme: Theme; onChange: (theme: Theme) => void }) {
  const set = (name: string, value: string) => onChange({ ...theme, variables: { ...theme.variables, [name]: value } });
  const current = (name: string, initial: string) => theme.variables[name] ?? initial;
  return (
    <fieldset>
      <legend>Looks</legend>
      <div class="choices" role="radiogroup" aria-label="Theme">
        {(['system', 'light', 'dark'] as const).map((mode) => (
          <label class="check" key={mode}>
            <input type="radio" name="mode" checked={theme.mode === mode} onChange={() => onChange({ ...theme, mode })} />
            {{ system: 'As the system', light: 'Light', dark: 'Dark' }[mode]}
          </label>
        ))}
      </div>
      {VARIABLES.map(({ name, label, type, initial, min, max, step, unit }) => (
        <label class="variable" key={name}>
          {label}
          {type === 'color' ? (
            <input type="color" value={theme.variables[name] ?? colour(name, initial)} onInput={(event) => set(name, event.currentTarget.value)} />
          ) : (
            <input
              type="range"
              min={min}
              max={max}
              step={step}
              value={parseFloat(current(name, initial))}
              onInput={(event) => set(name, `${event.currentTarget.value}${unit}`)}
            />
          )}
        </label>
      ))}
      <button type="button" onClick={() => onChange({ ...theme, variables: {} })}>
        As it was
      </button>
    </fieldset>
  );
}

/** The colour that a variable has now, in this theme. */
function colour(name: string, otherwise: string): string {
  const probe = document.createElement('i');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const numbers = /^rgb\((\d+), (\d+), (\d+)\)$/.exec(getComputedStyle(probe).color);
  probe.remove();
  if (!numbers) return otherwise;
  return `#${numbers.slice(1).map((number) => Number(number).toString(16).padStart(2, '0')).join('')}`;
}
