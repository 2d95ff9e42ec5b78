/// <reference types="vite/client" />
import { render } from 'preact';
import { registerWorker, waitOrOnline } from './offline';
import { Session } from './session';
import { browserPrivacy, drafts } from './storage';
import { App } from './ui/App';
import { applyTheme, loadTheme } from './ui/theme';
import { followHistory } from './ui/address';
import { WithTexts, language } from './ui/texts';
import { stayAboveKeyboard } from './ui/touch';

applyTheme(loadTheme());
followHistory();
stayAboveKeyboard();
addEventListener('pagehide', () => drafts.leave());
addEventListener('pageshow', () => drafts.reclaim());
const session = new Session((path, init) => fetch(path, init), Date.now, waitOrOnline, browserPrivacy);
const address = new URL(location.href);
const failure = address.searchParams.get('sign-in');
if (failure !== null) {
  session.providerFailed(failure);
  address.searchParams.delete('sign-in');
  history.replaceState(history.state, '', address);
}
void session.start();
addEventListener('storage', ({ key }) => language.stored(key));
addEventListener('languagechange', () => language.stored(null));
void language.start().then(() => {
  const page = (
    <WithTexts>
      <App session={session} />
    </WithTexts>
  );
  render(page, document.getElementById('app')!);
});
if (import.meta.env.PROD) void registerWorker();
