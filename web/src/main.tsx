/// <reference types="vite/client" />
import { render } from 'preact';
import { registerWorker, waitOrOnline } from './offline';
import { Session } from './session';
import { browserPrivacy, drafts } from './storage';
import { App } from './ui/App';
import { applyTheme, loadTheme } from './ui/Theme';
import { followHistory } from './ui/address';
import { stayAboveKeyboard } from './ui/touch';

applyTheme(loadTheme());
followHistory();
stayAboveKeyboard();
addEventListener('pagehide', () => drafts.leave());
addEventListener('pageshow', () => drafts.reclaim());
const session = new Session((path, init) => fetch(path, init), Date.now, waitOrOnline, browserPrivacy);
render(<App session={session} />, document.getElementById('app')!);
void session.start();
if (import.meta.env.PROD) void registerWorker();
