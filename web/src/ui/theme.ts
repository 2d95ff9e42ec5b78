/** The appearance that the user chose. */
import { isColour, legible, mix } from '../state/colour';
import { storage } from '../storage';

export type Scheme = 'light' | 'dark';
type Values = Record<string, string>;

/** What the user can change, stored in this browser. Each colour scheme has its own colours. */
export interface Theme {
  mode: 'system' | Scheme;
  light: Values;
  dark: Values;
  sizes: Values;
}

const KEY = 'uproar.theme';

/** What it is called in the catalogue. */
type Label = 'accent' | 'paper' | 'ink' | 'size' | 'leading' | 'measure';

/** The colours that the user can change, with their defaults, which are those of style.css. */
export const COLOURS: readonly { name: string; label: Label; light: string; dark: string }[] = [
  { name: '--accent', label: 'accent', light: '#3f5396', dark: '#a3b1ea' },
  { name: '--paper', label: 'paper', light: '#ffffff', dark: '#171614' },
  { name: '--ink', label: 'ink', light: '#1d1b19', dark: '#e6e1da' },
];

interface Size {
  name: string;
  label: Label;
  initial: number;
  min: number;
  max: number;
  step: number;
  unit: string;
}

export const SIZES: readonly Size[] = [
  { name: '--size', label: 'size', initial: 15, min: 12, max: 22, step: 1, unit: 'px' },
  { name: '--leading', label: 'leading', initial: 1.45, min: 1.2, max: 1.9, step: 0.05, unit: '' },
  { name: '--measure', label: 'measure', initial: 78, min: 40, max: 140, step: 2, unit: 'ch' },
];

/** The theme in the storage, where another version of the page, or a person, may have put anything. */
export function loadTheme(): Theme {
  let kept: Record<string, unknown>;
  try {
    kept = (JSON.parse(storage.getItem(KEY) ?? '{}') ?? {}) as Record<string, unknown>;
  } catch {
    kept = {};
  }
  const { mode } = kept;
  const pick = <T extends { name: string }>(values: unknown, known: readonly T[], isValid: IsValid<T>): Values => {
    const found = known.flatMap((entry) => {
      const value = (values as Record<string, unknown> | null | undefined)?.[entry.name];
      return typeof value === 'string' && isValid(value, entry) ? [[entry.name, value]] : [];
    });
    return Object.fromEntries(found) as Values;
  };
  return {
    mode: mode === 'light' || mode === 'dark' ? mode : 'system',
    light: pick(kept['light'], COLOURS, isColour),
    dark: pick(kept['dark'], COLOURS, isColour),
    sizes: pick(kept['sizes'], SIZES, isSize),
  };
}

type IsValid<T> = (value: string, entry: T) => boolean;

function isSize(value: string, { min, max, unit }: Size): boolean {
  const number = parseFloat(value);
  return value === `${number}${unit}` && number >= min && number <= max;
}

export function saveTheme(theme: Theme): void {
  storage.setItem(KEY, JSON.stringify(theme));
  applyTheme(theme);
}

/** Contrasts that WCAG 2 (AA) asks for: of text, a little more where text has other shades, and of everything else. */
const TEXT_RATIO = 4.5;
const INK_RATIO = 7;
const SHAPE_RATIO = 3;
/** The red of errors and the green of people who are here, in style.css. */
const WRONG = { light: '#a3120c', dark: '#ff8f85' };
const HERE = { light: '#1f7a3d', dark: '#6fcf8b' };
/** The colours of code there. */
const CODE = {
  '--code-comment': { light: '#5f5b57', dark: '#a8a29a' },
  '--code-keyword': { light: '#8f1f6d', dark: '#e59bd2' },
  '--code-name': { light: '#2450a4', dark: '#98b9f6' },
  '--code-number': { light: '#8a4a00', dark: '#e8b777' },
  '--code-removed': WRONG,
  '--code-string': { light: '#1c6a2e', dark: '#93d19b' },
};

/** All colours of a scheme. Chosen ones are changed as little as it takes to read and to see everything. */
export function coloursOf(scheme: Scheme, chosen: Values): Values {
  const [askedAccent, paper, askedInk] = COLOURS.map(({ name, ...colour }) => chosen[name] ?? colour[scheme]) as [
    string,
    string,
    string,
  ];
  const ink = legible(askedInk, [paper], INK_RATIO);
  // A little more than in style.css, which mixes in another colour space.
  const tint = mix(ink, paper, 0.06);
  // Buttons, the outline of the focus, and the bar at the open room.
  const accent = legible(askedAccent, [paper, tint], SHAPE_RATIO);
  const glow = mix(accent, paper, 0.14);
  const code = mix(ink, paper, 0.09);
  const codes = Object.entries(CODE).map(([name, colour]) => [name, legible(colour[scheme], [code], TEXT_RATIO)]);
  return {
    '--paper': paper,
    '--ink': ink,
    '--soft': legible(mix(ink, paper, 0.64), [paper, tint], TEXT_RATIO),
    '--outline': legible(mix(ink, paper, 0.52), [paper, tint], SHAPE_RATIO),
    '--accent': accent,
    '--accent-text': legible(accent, [paper, tint, glow], TEXT_RATIO),
    '--on-accent': legible(paper, [accent], TEXT_RATIO),
    '--wrong': legible(WRONG[scheme], [paper, tint], TEXT_RATIO),
    '--here': legible(HERE[scheme], [paper, tint], SHAPE_RATIO),
    ...(Object.fromEntries(codes) as Values),
  };
}

/** Whether the page shows other colours than the chosen ones, because those could not be read. */
export function isAdjusted(scheme: Scheme, chosen: Values): boolean {
  if (Object.keys(chosen).length === 0) return false;
  const { '--accent': accent, '--accent-text': text, '--ink': ink } = coloursOf(scheme, chosen);
  return text !== (chosen['--accent'] ?? accent) || ink !== (chosen['--ink'] ?? ink);
}

export function applyTheme({ mode, light, dark, sizes }: Theme): void {
  const root = document.documentElement;
  root.dataset['theme'] = mode;
  const set = (name: string, value: string | undefined) => {
    if (value === undefined) root.style.removeProperty(name);
    else root.style.setProperty(name, value);
  };
  // Without a choice, style.css has them all.
  const isChosen = Object.keys({ ...light, ...dark }).length > 0;
  const colours = { light: coloursOf('light', light), dark: coloursOf('dark', dark) };
  for (const name of Object.keys(colours.light)) {
    set(name, isChosen ? `light-dark(${colours.light[name]}, ${colours.dark[name]})` : undefined);
  }
  for (const { name } of SIZES) set(name, sizes[name]);
  // What surrounds the page on a phone.
  for (const scheme of ['light', 'dark'] as const) {
    const paper = colours[mode === 'system' ? scheme : mode]['--paper']!;
    document.querySelector(`meta[name=theme-color][media*=${scheme}]`)?.setAttribute('content', paper);
  }
}
