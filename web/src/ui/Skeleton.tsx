/** Grey shapes in the place of what is still being loaded, so that little moves when it is there. */

/** Messages, from the bottom up as in a room. */
export function MessageSkeleton() {
  return (
    <div class="skeleton messages-skeleton" aria-hidden="true">
      {Array.from({ length: 8 }, (_, i) => (
        <div class="row head" key={i}>
          <span class="avatar" />
          <span class="bone" />
          <span class="bone" />
        </div>
      ))}
    </div>
  );
}

/** A list of rooms or members. */
export function ListSkeleton({ hasAvatars = false }: { hasAvatars?: boolean }) {
  return (
    <ul class="skeleton" aria-hidden="true">
      {Array.from({ length: 6 }, (_, i) => (
        <li key={i}>
          {hasAvatars && <span class="avatar" />}
          <span class="bone" />
        </li>
      ))}
    </ul>
  );
}

/** A room of which nothing is known yet. */
export function RoomSkeleton() {
  return (
    <main class="room" aria-busy="true">
      <div class="room-head skeleton" aria-hidden="true">
        <span class="bone" />
      </div>
      <div class="messages">
        <MessageSkeleton />
      </div>
      <div class="composer skeleton" aria-hidden="true">
        <span class="bone" />
      </div>
    </main>
  );
}
