/** The settings dialog. */
import { useState } from 'preact/hooks';
import { check, errorField, errorText } from '../errors';
import type { Chat } from '../chat';
import type { Session } from '../session';
import { Avatar } from './Avatar';
import { Dialog } from './Dialog';
import { ErrorText } from './ErrorText';
import { Field } from './Field';
import { go } from './address';
import { hasSingleKeys, setSingleKeys } from './keys';
import { LanguageChoice } from './LanguageChoice';
import { ThemeEditor } from './ThemeEditor';
import { loadTheme, saveTheme } from './theme';
import { useTexts } from './texts';

interface Props {
  chat: Chat;
  session: Session;
  onShortcuts: () => void;
  onClose: () => void;
}

export function Settings({ chat, session, onShortcuts, onClose }: Props) {
  const t = useTexts();
  const [theme, setTheme] = useState(loadTheme);
  const [error, setError] = useState<unknown>();
  const [isSure, setSure] = useState(false);
  const unsent = chat.outbox.size;

  async function signOut(): Promise<void> {
    // Nothing of it stays in the browser.
    if (unsent > 0 && !isSure) return setSure(true);
    try {
      await session.signOut();
      go(undefined);
    } catch (error) {
      setError(error);
    }
  }

  return (
    <Dialog title={t.settings.title} onClose={onClose}>
      <p class="account">
        <Avatar name={chat.me.username} />
        <span>{t.settings.signedInAs(<strong dir="auto">{chat.me.username}</strong>)}</span>
        <button onClick={() => void signOut()}>{isSure ? t.settings.signOutAnyway : t.settings.signOut}</button>
      </p>
      {isSure && (
        <p class="error" role="alert">
          {t.settings.unsent(unsent)}
        </p>
      )}
      <ErrorText error={error} />
      <ThemeEditor
        theme={theme}
        onChange={(theme) => {
          setTheme(theme);
          saveTheme(theme);
        }}
      />
      <LanguageChoice />
      <Notifications />
      <fieldset>
        <legend>{t.settings.keyboard}</legend>
        <label class="check">
          <input
            type="checkbox"
            defaultChecked={hasSingleKeys()}
            onChange={({ currentTarget }) => setSingleKeys(currentTarget.checked)}
          />
          {t.settings.singleKeys}
        </label>
        <p class="hint">{t.settings.singleKeysHint}</p>
        <button onClick={onShortcuts}>{t.settings.showShortcuts}</button>
      </fieldset>
      <Password chat={chat} session={session} />
      <p class="hint">{t.settings.software((text) => <a href="/licences.txt">{text}</a>)}</p>
    </Dialog>
  );
}

function Notifications() {
  const t = useTexts();
  const isSupported = typeof Notification !== 'undefined' && isSecureContext;
  const [permission, setPermission] = useState(isSupported ? Notification.permission : 'denied');
  return (
    <fieldset>
      <legend>{t.notifications.title}</legend>
      {!isSupported ? (
        <p class="hint">{t.notifications.unsupported}</p>
      ) : permission === 'granted' ? (
        <p class="hint">{t.notifications.granted}</p>
      ) : permission === 'denied' ? (
        <p class="hint">{t.notifications.denied}</p>
      ) : (
        <button onClick={async () => setPermission(await Notification.requestPermission())}>
          {t.notifications.enable}
        </button>
      )}
    </fieldset>
  );
}

function Password({ chat, session }: { chat: Chat; session: Session }) {
  const t = useTexts();
  const [error, setError] = useState<unknown>();
  const [done, setDone] = useState(false);
  const errorOf = (name: string) => (errorField(error) === name ? errorText(error, t) : undefined);
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
        <legend>{t.password.title}</legend>
        <Field
          label={t.password.current}
          name="current"
          type="password"
          autocomplete="current-password"
          error={errorOf('current_password')}
        />
        <Field
          label={t.password.new}
          name="new"
          type="password"
          autocomplete="new-password"
          error={errorOf('new_password')}
        />
        {errorField(error) === null && <ErrorText error={error} />}
        {done && <p role="status">{t.password.changed}</p>}
        <button>{t.password.change}</button>
      </fieldset>
    </form>
  );
}
