/** All texts of the page in German. */
import type { Catalogue } from './en';
import type { Formats } from './formats';
import { rich } from './rich';

export const de = ({ plural }: Formats): Catalogue => ({
  settings: {
    title: 'Einstellungen',
    signedInAs: (name) => rich`Angemeldet als ${name}`,
    signOut: 'Überall abmelden',
    signOutAnyway: 'Trotzdem abmelden',
    unsent: (count) =>
      `${plural(count, {
        one: 'Eine Nachricht wurde noch nicht gesendet.',
        other: '# Nachrichten wurden noch nicht gesendet.',
      })} Beim Abmelden wird gelöscht, was du geschrieben und nicht gesendet hast.`,
    keyboard: 'Tastatur',
    showShortcuts: 'Tastenkürzel anzeigen',
    software: (link) => rich`Diese Seite enthält ${link('Software von anderen')}.`,
  },
  language: {
    title: 'Sprache und Uhrzeit',
    language: 'Sprache',
    likeBrowser: 'Wie im Browser',
    failed: 'Diese Sprache lässt sich gerade nicht laden.',
    clock: 'Uhrzeiten',
    clocks: { language: 'Wie in der Sprache üblich', '12': '12 Stunden', '24': '24 Stunden' },
  },
  appearance: {
    title: 'Darstellung',
    theme: 'Design',
    modes: { system: 'System', light: 'Hell', dark: 'Dunkel' },
    accent: 'Akzentfarbe',
    paper: 'Hintergrund',
    ink: 'Textfarbe',
    size: 'Schriftgröße',
    leading: 'Zeilenhöhe',
    measure: 'Zeilenlänge',
    applies: {
      light: 'Diese Farben gelten nur für das helle Design.',
      dark: 'Diese Farben gelten nur für das dunkle Design.',
    },
    adjusted: 'Was darin nicht zu erkennen wäre, erscheint in ähnlichen Farben.',
    reset: 'Zurücksetzen',
  },
  notifications: {
    title: 'Benachrichtigungen',
    unsupported: 'Dieser Browser kann hier keine Benachrichtigungen anzeigen.',
    granted: 'Du wirst benachrichtigt, wenn dich jemand erwähnt.',
    denied: 'Benachrichtigungen sind für diese Seite in den Einstellungen deines Browsers blockiert.',
    enable: 'Bei Erwähnungen benachrichtigen',
  },
  password: {
    title: 'Passwort',
    current: 'Aktuelles Passwort',
    new: 'Neues Passwort',
    change: 'Passwort ändern',
    changed: 'Passwort geändert',
  },
  signIn: {
    signIn: 'Anmelden',
    newAccount: 'Konto erstellen',
    username: 'Benutzername',
    email: 'E-Mail-Adresse',
    who: 'Benutzername oder E-Mail-Adresse',
    password: 'Passwort',
    passwordHint: 'Mindestens 8 Zeichen',
    create: 'Konto erstellen',
    isKnown: 'Du hast schon ein Konto?',
    isNew: 'Neu hier?',
  },
  starting: {
    offline: 'Du bist offline. Die Seite öffnet sich, sobald du wieder online bist.',
    unsent: (count) =>
      plural(count, {
        one: '1 Nachricht wartet darauf, gesendet zu werden.',
        other: '# Nachrichten warten darauf, gesendet zu werden.',
      }),
  },
});
