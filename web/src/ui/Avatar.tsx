import { initials, personColour } from '../state/person';

/**
 * The initials of a person on their colour, for eyes only: the name is always written nearby. The style sheet inserts
 * the initials, so that they are not copied along with messages. `isPerson`: pressing it shows who it is.
 */
export function Avatar({ name, isPerson = false }: { name: string; isPerson?: boolean }) {
  return (
    <span
      class="avatar"
      aria-hidden="true"
      data-person={isPerson ? name : undefined}
      data-initials={initials(name)}
      style={{ backgroundColor: personColour(name) }}
    />
  );
}
