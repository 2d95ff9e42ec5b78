/** The settings dialog. */
import { useState } from 'preact/hooks';
import { check, errorField, errorText } from '../errors';
import type { Chat } from '../chat';
import type { Session } from '../session';
import { Avatar } from './Avatar';
import { Dialog } from './Dialog';
import { Field } from './Field';
import { go } from './address';
import { ThemeEditor, loadTheme, saveTheme } from './Theme';

interface Props {
  chat: Chat;
  session: Session;
  onShortcuts: () => void;
  onClose: () => void;
}

export function Settings({ chat, session, onShortcuts, onClose }: Props) {
  const [theme, setTheme] = useState(loadTheme);
  const [error, setError] = useState<string>();
  const [isSure, setSure] = useState(false);
  const unsent = chat.outbox.size;

  async function signOut(): Promise<void> {
    // Nothing of it stays in the browser.
    if (unsent > 0 && !isSure) return setSure(true);
    try {
      await session.signOut();
      go(undefined);
    } catch (error) {
      setError(errorText(error));
    }
  }

  return (
    <Dialog title="Settings" onClose={onClose}>
      <p class="account">
        <Avatar name={chat.me.username} />
        <span>
          Signed in as <strong dir="auto">{chat.me.username}</strong>
        </span>
        <button onClick={() => void signOut()}>{isSure ? 'Sign out anyway' : 'Sign out everywhere'}</button>
      </p>
      {isSure && (
        <p class="error" role="alert">
          {unsent === 1 ? 'A message hasn’t been sent yet.' : `${unsent} messages haven’t been sent yet.`} Signing out
          deletes what you wrote and didn’t send.
        </p>
      )}
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      <ThemeEditor
        theme={theme}
        onChange={(theme) => {
          setTheme(theme);
          saveTheme(theme);
        }}
      />
      <Notifications />
      <fieldset>
        <legend>Keyboard</legend>
        <button onClick={onShortcuts}>Show the keyboard shortcuts</button>
      </fieldset>
      <Password chat={chat} session={session} />
      <p class="hint">
        This page contains <a href="/licences.txt">software of others</a>.
      </p>
    </Dialog>
  );
}

function Notifications() {
  const isSupported = typeof Notification !== 'undefined' && isSecureContext;
  const [permission, setPermission] = useState(isSupported ? Notification.permission : 'denied');
  return (
    <fieldset>
      <legend>Notifications</legend>
      {!isSupported ? (
        <p class="hint">This browser can’t show notifications here.</p>
      ) : permission === 'granted' ? (
        <p class="hint">You’ll be notified when someone mentions you.</p>
      ) : permission === 'denied' ? (
        <p class="hint">Notifications are blocked in your browser’s settings for this site.</p>
      ) : (
        <button onClick={async () => setPermission(await Notification.requestPermission())}>
          Notify me when I’m mentioned
        </button>
      )}
    </fieldset>
  );
}

function Password({ chat, session }: { chat: Chat; session: Session }) {
  const [error, setError] = useState<unknown>();
  const [done, setDone] = useState(false);
  const errorOf = (name: string) => (error !== undefined && errorField(error) === name ? errorText(error) : undefined);
  return (
    <form
      onSubmit={async (event) => {
        event.preventDefault();
        const form = event.currentTarget;
        const data = new FormData(form);
        setError(undefined);
        setDone(false);
        try {
          const wrong = check({ new_password: String(data.get('new')) });
          if (wrong) throw wrong;
          session.set(await chat.api.changePassword(String(data.get('current')), String(data.get('new'))));
          form.reset();
          setDone(true);
        } catch (error) {
          setError(error);
        }
      }}
    >
      <fieldset>
        <legend>Password</legend>
        <Field
          label="Current password"
          name="current"
          type="password"
          autocomplete="current-password"
          error={errorOf('current_password')}
        />
        <Field
          label="New password"
          name="new"
          type="password"
          autocomplete="new-password"
          error={errorOf('new_password')}
        />
        {error !== undefined && errorField(error) === null && (
          <p class="error" role="alert">
            {errorText(error)}
          </p>
        )}
        {done && <p role="status">Password changed</p>}
        <button>Change password</button>
      </fieldset>
    </form>
  );
}
