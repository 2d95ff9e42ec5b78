import { en } from './en';
import { formats } from './formats';
import type { Texts } from './language';

const format = formats('en-GB');

/** Texts for tests. */
export const british: Texts = { ...en(format), code: 'en', format };
