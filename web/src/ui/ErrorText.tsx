import { errorText } from '../errors';
import { useTexts } from './texts';

/** Says what went wrong, if anything did. */
export function ErrorText({ error }: { error: unknown }) {
  const t = useTexts();
  if (error === undefined) return null;
  return (
    <p class="error" role="alert">
      {errorText(error, t)}
    </p>
  );
}
