import { useEffect, useId, useRef } from 'preact/hooks';
import { mayTakeFocus } from './hooks';

interface Props {
  label: string;
  name: string;
  type?: 'text' | 'email' | 'password' | 'date';
  autocomplete?: string;
  hint?: string | undefined;
  error?: string | undefined;
  focus?: boolean;
  value?: string;
  onInput?: (value: string) => void;
}

/** An input with its label, and a hint or an error below it. */
export function Field({ label, name, type = 'text', autocomplete = 'off', hint, error, focus, value, onInput }: Props) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (focus && mayTakeFocus()) input.current?.focus();
  }, []);
  useEffect(() => {
    if (error) input.current?.focus();
  }, [error]);
  const below = error ?? hint;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        ref={input}
        id={id}
        name={name}
        // Preact's types don't accept a union here.
        type={type as 'text'}
        autocomplete={autocomplete}
        autocapitalize="none"
        spellcheck={false}
        dir="auto"
        aria-invalid={error ? true : undefined}
        aria-describedby={below ? `${id}-below` : undefined}
        {...(value === undefined ? {} : { value })}
        onInput={(event) => onInput?.(event.currentTarget.value)}
      />
      {below && (
        <p id={`${id}-below`} class={error ? 'error' : 'hint'} role={error ? 'alert' : undefined}>
          {below}
        </p>
      )}
    </div>
  );
}
