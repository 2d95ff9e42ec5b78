import { render } from 'preact';
import { Session } from './session';
import { App } from './ui/App';
import { applyTheme, loadTheme } from './ui/Theme';

applyTheme(loadTheme());
const session = new Session((path, init) => fetch(path, init));
render(<App session={session} />, document.getElementById('app')!);
void session.start();
