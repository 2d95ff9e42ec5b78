/** The form to sign in or create an account. */
import { useEffect, useState } from 'preact/hooks';
import { check, errorField, errorText } from '../errors';
import { PROVIDER_PATH, type Session, type WaysToSignIn } from '../session';
import { ErrorText } from './ErrorText';
import { Field } from './Field';
import { LanguageSelect } from './LanguageChoice';
import { useTexts } from './texts';

/** What a server that can't be asked right now most likely allows. It says so itself if not. */
const USUAL: WaysToSignIn = { password: true, sign_up: 'open' };

/** `inFrame`: providers don't let themselves be shown in a frame, and the cookie would not arrive there. */
export function SignIn({ session, inFrame = false }: { session: Session; inFrame?: boolean }) {
  const texts = useTexts();
  const t = texts.signIn;
  const [ways, setWays] = useState<WaysToSignIn>();
  useEffect(() => {
    void session
      .waysToSignIn()
      .catch(() => USUAL)
      .then(setWays);
  }, [session]);
  const [isNew, setNew] = useState(false);
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const field = errorField(error);
  const errorOf = (...names: string[]) =>
    field !== null && names.includes(field) ? errorText(error, texts) : undefined;
  const fields = ['username', 'email', 'password'];

  async function submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const data = new FormData(event.currentTarget as HTMLFormElement);
    const value = (name: string) => String(data.get(name) ?? '');
    // Phones add a space after a completed word, and no name or address has one around it.
    const [username, email, who] = ['username', 'email', 'who'].map(name => value(name).trim()) as [
      string,
      string,
      string,
    ];
    const password = value('password');
    if (isNew) {
      const wrong = check({ username, email, password });
      setError(wrong);
      if (wrong) return;
    }
    setBusy(true);
    setError(undefined);
    try {
      if (isNew) await session.signUp(username, email, password);
      else await session.signIn(who, password);
    } catch (error) {
      setError(error);
      setBusy(false);
    }
  }

  return (
    <main class="sign-in">
      <h1>Uproar</h1>
      {session.notice && (
        <p class="notice" role="status">
          {session.notice(texts)}
        </p>
      )}
      {ways?.oidc && !inFrame && (
        <p class="provider">
          <button class="primary" onClick={() => location.assign(PROVIDER_PATH)}>
            {t.withProvider(ways.oidc.name)}
          </button>
        </p>
      )}
      {ways && !ways.password && (!ways.oidc || inFrame) && <p>{t.noPasswords}</p>}
      {ways?.password && (
        <form onSubmit={submit} key={isNew ? 'new' : 'known'} noValidate>
          <h2>{isNew ? t.newAccount : t.signIn}</h2>
          {isNew ? (
            <>
              <Field label={t.username} name="username" autocomplete="username" error={errorOf('username')} focus />
              <Field label={t.email} name="email" type="email" autocomplete="email" error={errorOf('email')} />
            </>
          ) : (
            <Field
              label={t.who}
              name="who"
              autocomplete="username"
              error={errorOf('username', 'email')}
              focus
            />
          )}
          <Field
            label={t.password}
            name="password"
            type="password"
            autocomplete={isNew ? 'new-password' : 'current-password'}
            hint={isNew ? t.passwordHint : undefined}
            error={errorOf('password')}
          />
          {(field === null || !fields.includes(field)) && <ErrorText error={error} />}
          <button class="primary" disabled={busy}>
            {isNew ? t.create : t.signIn}
          </button>
        </form>
      )}
      {ways?.sign_up === 'open' && (
        <p>
          {isNew ? t.isKnown : t.isNew}{' '}
          <button
            class="link"
            onClick={() => {
              setNew(!isNew);
              setError(undefined);
            }}
          >
            {isNew ? t.signIn : t.newAccount}
          </button>
        </p>
      )}
      <div class="language">
        <LanguageSelect />
      </div>
    </main>
  );
}
