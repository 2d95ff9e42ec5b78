/**
 * All texts of the page, in English, by view. The other languages have the same ones. `format` writes numbers, dates
 * and plurals.
 */
import type { ComponentChild } from 'preact';
import type { Formats } from './formats';
import { rich } from './rich';

export const en = ({ plural }: Formats) => ({
  settings: {
    title: 'Settings',
    signedInAs: (name: ComponentChild) => rich`Signed in as ${name}`,
    signOut: 'Sign out everywhere',
    signOutAnyway: 'Sign out anyway',
    unsent: (count: number) =>
      `${plural(count, {
        one: 'A message hasn’t been sent yet.',
        other: '# messages haven’t been sent yet.',
      })} Signing out deletes what you wrote and didn’t send.`,
    keyboard: 'Keyboard',
    showShortcuts: 'Show the keyboard shortcuts',
    software: (link: (text: string) => ComponentChild) => rich`This page contains ${link('software of others')}.`,
  },
  language: {
    title: 'Language and time',
    language: 'Language',
    likeBrowser: 'Like the browser',
    failed: 'This language can’t be loaded right now.',
    clock: 'Times',
    clocks: { language: 'Like the language', '12': '12 hours', '24': '24 hours' },
  },
  appearance: {
    title: 'Appearance',
    theme: 'Theme',
    modes: { system: 'System', light: 'Light', dark: 'Dark' },
    accent: 'Accent colour',
    paper: 'Background',
    ink: 'Text colour',
    size: 'Text size',
    leading: 'Line height',
    measure: 'Line length',
    applies: {
      light: 'These colours apply to the light theme only.',
      dark: 'These colours apply to the dark theme only.',
    },
    adjusted: 'What could not be seen in them is shown in similar ones.',
    reset: 'Reset',
  },
  notifications: {
    title: 'Notifications',
    unsupported: 'This browser can’t show notifications here.',
    granted: 'You’ll be notified when someone mentions you.',
    denied: 'Notifications are blocked in your browser’s settings for this site.',
    enable: 'Notify me when I’m mentioned',
  },
  password: {
    title: 'Password',
    current: 'Current password',
    new: 'New password',
    change: 'Change password',
    changed: 'Password changed',
  },
  signIn: {
    signIn: 'Sign in',
    newAccount: 'Create an account',
    username: 'Username',
    email: 'Email',
    who: 'Username or email',
    password: 'Password',
    passwordHint: 'At least 8 characters',
    create: 'Create account',
    isKnown: 'Already have an account?',
    isNew: 'New here?',
  },
  starting: {
    offline: 'You’re offline. The page opens as soon as you’re back.',
    unsent: (count: number) =>
      plural(count, { one: '1 message waits to be sent.', other: '# messages wait to be sent.' }),
  },
});

export type Catalogue = ReturnType<typeof en>;
