import { initials, personColour } from '../state/person';

/**
 * The initials of a person on their colour, for eyes only: the name is always written nearby. The style sheet inserts
 * the initials, so that they are not copied along with messages.
 */
export function Avatar({ name }: { name: string }) {
  return (
    <span
      class="avatar"
      aria-hidden="true"
      data-initials={initials(name)}
      style={{ backgroundColor: personColour(name) }}
    />
  );
}
