/** The page with a single room, in a frame on another site. */
import { Memory } from '@uproar/client';
import type { Wishes } from '@uproar/client/element';
import { render } from 'preact';
import { type Host, findHost } from './host';
import { waitOrOnline } from './offline';
import { Session } from './session';
import { Drafts } from './state/drafts';
import { forget } from './state/privacy';
import { tabStorage } from './storage';
import { Embedded } from './ui/Embedded';
import { applyTheme } from './ui/theme';
import { replace } from './ui/address';
import { WithTexts, language } from './ui/texts';

if (window.parent === window) location.replace(`/${location.hash}`);
else void findHost().then(start);

function start(host: Host): void {
  // What is written here stays in this tab, apart from what the whole page keeps: the user may be another one there.
  const privacy = { forget: (user: string) => forget([tabStorage], user), forgetOthers: () => {} };
  const surroundings = {
    storage: tabStorage,
    drafts: new Drafts(tabStorage, new Memory()),
    // Where the focus is does not matter here.
    visible: () => document.visibilityState === 'visible' && host.wishes.isSeen,
    notify: () => {},
  };
  let last: Partial<Wishes> = {};
  let texts = Promise.resolve();
  let running: Session | undefined;
  let opened = 0;

  function open(): void {
    const siteToken = host.wishes.hasToken ? () => host.token() : undefined;
    // The one before no longer tries to begin.
    running?.end();
    const session = new Session((path, init) => fetch(path, init), Date.now, waitOrOnline, privacy, siteToken);
    running = session;
    void session.start();
    // Another session begins everything again.
    const page = (
      <WithTexts key={++opened}>
        <Embedded host={host} session={session} surroundings={surroundings} onRetry={open} />
      </WithTexts>
    );
    void texts.then(() => {
      // The texts of an earlier session may come later.
      if (running === session) render(page, document.getElementById('app')!);
    });
  }

  function follow(): void {
    const before = last;
    const { theme, language: locale, room, hasToken, isSeen } = (last = host.wishes);
    applyTheme({ mode: theme === 'light' || theme === 'dark' ? theme : 'system', light: {}, dark: {}, sizes: {} });
    if (locale !== before.language) texts = locale === '' ? language.start() : language.use(locale);
    if (room !== before.room) replace(room);
    if (hasToken !== before.hasToken) open();
    if (isSeen !== before.isSeen) dispatchEvent(new Event(isSeen ? 'focus' : 'blur'));
  }
  host.subscribe(follow);
  follow();
}
