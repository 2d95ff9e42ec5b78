import { render } from 'preact';
import { Session, wait } from './session';
import { browserPrivacy, drafts } from './storage';
import { App } from './ui/App';
import { applyTheme, loadTheme } from './ui/Theme';

applyTheme(loadTheme());
addEventListener('pagehide', () => drafts.leave());
addEventListener('pageshow', () => drafts.reclaim());
const session = new Session((path, init) => fetch(path, init), Date.now, wait, browserPrivacy);
render(<App session={session} />, document.getElementById('app')!);
void session.start();
