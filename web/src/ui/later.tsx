/** Parts of the page that the first screen does without. They are loaded right after it. */
import type { ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { Dialog } from './Dialog';
import { useTexts } from './texts';

/** So that they need no network when they are opened. */
const PRELOAD_MS = 1000;

const load = () => import('./later-parts');
type Parts = Awaited<ReturnType<typeof load>>;

let parts: Parts | undefined;

async function ready(): Promise<void> {
  parts ??= await load();
}

/** Loads the parts once the page has started. If that fails, it happens again when one of them is opened. */
export function usePreload(): void {
  useEffect(() => {
    const timer = setTimeout(() => ready().catch(() => {}), PRELOAD_MS);
    return () => clearTimeout(timer);
  }, []);
}

interface Closable {
  onClose: () => void;
}

function later<Props extends Closable>(pick: (parts: Parts) => ComponentType<Props>): ComponentType<Props> {
  return function Later(props: Props) {
    const t = useTexts();
    const [state, setState] = useState<'loading' | 'loaded' | 'failed'>('loading');
    useEffect(() => {
      if (parts) return;
      let isOpen = true;
      ready().then(() => isOpen && setState('loaded'), () => isOpen && setState('failed'));
      return () => {
        isOpen = false;
      };
    }, []);
    if (parts) {
      const Part = pick(parts);
      return <Part {...props} />;
    }
    if (state !== 'failed') return null;
    return (
      <Dialog title={t.errors.unknown} onClose={props.onClose}>
        <p class="error" role="alert">
          {t.errors.codes.network}
        </p>
      </Dialog>
    );
  };
}

export const FindRoom = later((parts) => parts.FindRoom);
export const JumpToDate = later((parts) => parts.JumpToDate);
export const Members = later((parts) => parts.Members);
export const Profile = later((parts) => parts.Profile);
export const RoomDetails = later((parts) => parts.RoomDetails);
export const Settings = later((parts) => parts.Settings);
export const Shortcuts = later((parts) => parts.Shortcuts);
export const Switcher = later((parts) => parts.Switcher);
