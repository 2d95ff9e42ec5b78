/** See later.tsx. */
export { FindRoom } from './FindRoom';
export { JumpToDate } from './JumpToDate';
export { Members } from './Members';
export { Profile } from './Profile';
export { RoomDetails } from './RoomDetails';
export { Settings } from './Settings';
export { Shortcuts } from './Shortcuts';
export { Switcher } from './Switcher';
