//! The requests that wait for the reader: a queue per user for each kind of query, served in turn.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, LazyLock};
use uproar_core::message::{Asker, Endpoint, Party, Requester, StoreReply, StoreRequest};
use uproar_model::fairness::{FairQueue, QueueFull};
use uproar_model::{Identity, Offset, RoomId, UserId};
use uproar_store::PageRequest;

/// Requests of one kind that may wait, of one user and of all together. More are answered immediately that they failed.
/// The credits of the shards bound them too.
const USER_LIMIT: usize = 1_024;
const LIMIT: usize = 65_536;

/// Where a reply goes.
pub(super) type ReplyTo = (Endpoint, Requester);

/// A request, who made it, and where the reply goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub reply_to: ReplyTo,
    pub asker: Asker,
    pub request: StoreRequest,
}

/// Pages that are read at the same time. Reading one from the file system's cache is work for a core, and if more read
/// than there are cores, everything else has to wait.
static PAGES: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 6));

/// The kinds of queries. Each has places of its own among those that run at the same time, so that many of one kind do
/// not keep another one waiting. Requests that find no place wait, and share queries with those that arrive later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Admit,
    Join,
    User,
    Heads,
    Sweep,
    Markers,
    Page,
    Rooms,
}

impl Kind {
    /// What lets people in comes first.
    pub const ALL: [Kind; 8] =
        [Kind::Admit, Kind::User, Kind::Join, Kind::Heads, Kind::Sweep, Kind::Markers, Kind::Page, Kind::Rooms];

    /// How many queries of this kind run at the same time. Those that answer many requests at once need few.
    pub fn places(self) -> usize {
        match self {
            Kind::Admit => 3,
            Kind::User | Kind::Join | Kind::Heads | Kind::Rooms => 2,
            Kind::Sweep | Kind::Markers => 1,
            Kind::Page => *PAGES,
        }
    }
}

/// A user who asks to be admitted to a room, by its name; whether the user may join it for that; and who waits for the
/// answer.
pub(super) type Admission = (String, UserId, bool, ReplyTo, Asker);

/// A user to look up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// The name, and who they are in another system if the token is from there.
    Named(Arc<str>, Option<Arc<Identity>>),
    Id(UserId),
}

/// A page, and everybody who asks for it.
type PageQuery = ((RoomId, PageRequest), Vec<(ReplyTo, Asker)>);

/// What a query for a user's rooms needs: the user, the name after which the page begins, its length.
type RoomsQuery = (UserId, Option<String>, usize, ReplyTo);

/// Rooms, by room ascending, and their last offsets as the shard knows them.
pub(super) type SweepAsked = (Vec<(RoomId, Offset)>, ReplyTo);

#[derive(Debug)]
pub(super) struct Waiting {
    admissions: FairQueue<Party, Admission>,
    /// Of those who are not members, but may join the room. They wait here so that members need not wait for them.
    joins: FairQueue<Party, Admission>,
    /// Of homes, whose number is bounded by that of the rooms in use. All of them fit into few queries.
    heads: VecDeque<(RoomId, ReplyTo)>,
    /// Of shards, each of which has one under way.
    sweeps: Vec<SweepAsked>,
    users: Shared<Wanted>,
    pages: Shared<(RoomId, PageRequest)>,
    rooms: FairQueue<Party, (UserId, Option<String>, usize, ReplyTo, Asker)>,
    /// Whose requests were dropped because nobody waited for the answer.
    pub unwanted: Vec<Endpoint>,
}

impl Waiting {
    pub fn new() -> Waiting {
        Waiting {
            admissions: FairQueue::new(LIMIT, USER_LIMIT),
            joins: FairQueue::new(LIMIT, USER_LIMIT),
            heads: VecDeque::new(),
            sweeps: Vec::new(),
            users: Shared::new(),
            pages: Shared::new(),
            rooms: FairQueue::new(LIMIT, USER_LIMIT),
            unwanted: Vec::new(),
        }
    }

    /// Adds a request. One that finds no room, or is displaced by this one, is answered in `replies`.
    pub fn add(&mut self, asked: Asked, replies: &mut Vec<(ReplyTo, StoreReply)>) {
        let Asked { reply_to, asker, request } = asked;
        let party = asker.party.clone();
        let unwanted = &mut self.unwanted;
        let refused = match request {
            StoreRequest::Admit { room, user } => {
                let waits = |(.., reply_to, asker): &Admission| waits(reply_to, asker, unwanted);
                let admission = (room, user, true, reply_to, asker);
                push(&mut self.admissions, party, admission, waits).map(|(.., to, _)| vec![to])
            }
            StoreRequest::AdmitMember { room, user } => {
                let waits = |(.., reply_to, asker): &Admission| waits(reply_to, asker, unwanted);
                let admission = (room, user, false, reply_to, asker);
                push(&mut self.admissions, party, admission, waits).map(|(.., to, _)| vec![to])
            }
            StoreRequest::Rooms { user, after, limit } => {
                let waits = |(.., reply_to, asker): &(_, _, _, ReplyTo, Asker)| waits(reply_to, asker, unwanted);
                push(&mut self.rooms, party, (user, after, limit, reply_to, asker), waits).map(|(.., to, _)| vec![to])
            }
            StoreRequest::Head { room } => {
                self.heads.push_back((room, reply_to));
                None
            }
            StoreRequest::Sweep { heads } => {
                self.sweeps.push((heads, reply_to));
                None
            }
            StoreRequest::Page { room, request } => self.pages.add(party, (room, request), (reply_to, asker), unwanted),
            StoreRequest::User { username, identity } => {
                self.users.add(party, Wanted::Named(username, identity), (reply_to, asker), unwanted)
            }
            StoreRequest::UserById { user } => self.users.add(party, Wanted::Id(user), (reply_to, asker), unwanted),
            StoreRequest::MarkRead { .. } => {
                debug_assert!(false, "these go to the markers");
                Some(vec![reply_to])
            }
        };
        replies.extend(refused.into_iter().flatten().map(|reply_to| (reply_to, StoreReply::Failed)));
    }

    /// The next request for admission.
    pub fn next_admission(&mut self) -> Option<Admission> {
        next_wanted(&mut self.admissions, &mut self.unwanted)
    }

    /// Adds a request for admission by somebody who has to join the room for that.
    pub fn add_join(&mut self, admission: Admission, replies: &mut Vec<(ReplyTo, StoreReply)>) {
        let unwanted = &mut self.unwanted;
        let party = admission.4.party.clone();
        let waits = |(.., reply_to, asker): &Admission| waits(reply_to, asker, unwanted);
        let refused = push(&mut self.joins, party, admission, waits);
        replies.extend(refused.map(|(.., reply_to, _)| (reply_to, StoreReply::Failed)));
    }

    /// The next of the requests that [`Waiting::add_join`] added.
    pub fn next_join(&mut self) -> Option<Admission> {
        next_wanted(&mut self.joins, &mut self.unwanted)
    }

    /// The next requests for heads.
    pub fn take_heads(&mut self, limit: usize) -> Vec<(RoomId, ReplyTo)> {
        self.heads.drain(..limit.min(self.heads.len())).collect()
    }

    /// All requests for sweeps.
    pub fn take_sweeps(&mut self) -> Vec<SweepAsked> {
        std::mem::take(&mut self.sweeps)
    }

    /// The next user to look up, and everybody who asks for them.
    pub fn next_user(&mut self) -> Option<(Wanted, Vec<ReplyTo>)> {
        let (user, askers) = self.users.next(&mut self.unwanted)?;
        Some((user, askers.into_iter().map(|(reply_to, _)| reply_to).collect()))
    }

    /// The next page, and everybody who asks for it.
    pub fn next_page(&mut self) -> Option<PageQuery> {
        self.pages.next(&mut self.unwanted)
    }

    /// The next request for a user's rooms.
    pub fn next_rooms(&mut self) -> Option<RoomsQuery> {
        while let Some((_, (user, after, limit, reply_to, asker))) = self.rooms.pop() {
            if waits(&reply_to, &asker, &mut self.unwanted) {
                return Some((user, after, limit, reply_to));
            }
        }
        None
    }
}

/// The next request for admission that somebody waits for.
fn next_wanted(queue: &mut FairQueue<Party, Admission>, unwanted: &mut Vec<Endpoint>) -> Option<Admission> {
    while let Some((_, admission)) = queue.pop() {
        if waits(&admission.3, &admission.4, unwanted) {
            return Some(admission);
        }
    }
    None
}

/// Whether somebody waits for the answer to a request. If not, its credit goes back without one.
fn waits(reply_to: &ReplyTo, asker: &Asker, unwanted: &mut Vec<Endpoint>) -> bool {
    let waits = asker.is_waiting();
    if !waits {
        unwanted.push(reply_to.0);
    }
    waits
}

/// Queues an item. Returns the one for which there is no room: this one, or another one that had to give way. Before
/// anything is refused, what nobody waits for is removed.
fn push<T>(queue: &mut FairQueue<Party, T>, party: Party, item: T, mut waits: impl FnMut(&T) -> bool) -> Option<T> {
    if queue.len() >= LIMIT || queue.len_of(&party) >= USER_LIMIT {
        queue.retain(|_, item| waits(item));
    }
    match queue.push(party, item) {
        Ok(displaced) => displaced.map(|(_, item)| item),
        Err(QueueFull::OfKey(item) | QueueFull::OfAll(item)) => Some(item),
    }
}

/// Questions that may be asked by several at once, and are then answered once.
#[derive(Debug)]
struct Shared<Q> {
    /// In the queue of the user who asked first.
    queue: FairQueue<Party, Q>,
    askers: HashMap<Q, Vec<(ReplyTo, Asker)>>,
}

impl<Q: Clone + Eq + Hash> Shared<Q> {
    fn new() -> Shared<Q> {
        Shared { queue: FairQueue::new(LIMIT, USER_LIMIT), askers: HashMap::new() }
    }

    /// Returns who must be answered that they failed, if there is no room.
    fn add(
        &mut self,
        party: Party,
        question: Q,
        asker: (ReplyTo, Asker),
        unwanted: &mut Vec<Endpoint>,
    ) -> Option<Vec<ReplyTo>> {
        let askers = self.askers.entry(question.clone()).or_default();
        askers.push(asker);
        if askers.len() > 1 {
            return None;
        }
        let all = &mut self.askers;
        let is_wanted = |question: &Q| {
            let is_wanted = all.get(question).is_some_and(|askers| askers.iter().any(|(_, asker)| asker.is_waiting()));
            if !is_wanted {
                unwanted.extend(all.remove(question).into_iter().flatten().map(|((to, _), _)| to));
            }
            is_wanted
        };
        let refused = push(&mut self.queue, party, question, is_wanted)?;
        Some(self.askers.remove(&refused)?.into_iter().map(|(reply_to, _)| reply_to).collect())
    }

    /// The next question that somebody waits for, and all who ask it.
    fn next(&mut self, unwanted: &mut Vec<Endpoint>) -> Option<(Q, Vec<(ReplyTo, Asker)>)> {
        while let Some((_, question)) = self.queue.pop() {
            let mut askers = self.askers.remove(&question).unwrap_or_default();
            askers.retain(|(reply_to, asker)| waits(reply_to, asker, unwanted));
            if !askers.is_empty() {
                return Some((question, askers));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uproar_core::message::{Caller, Interest};
    use uproar_core::{Serial, Slot};

    fn asked(user: i64, serial: u32, interest: &Interest, request: StoreRequest) -> Asked {
        let endpoint = Endpoint::Shard(0);
        let requester = Requester::Call(Caller { endpoint, slot: Slot(0), generation: 0, serial: Serial(serial) });
        Asked { reply_to: (endpoint, requester), asker: Asker::new(Party::User(UserId(user)), interest), request }
    }

    fn rooms(user: i64) -> StoreRequest {
        StoreRequest::Rooms { user: UserId(user), after: None, limit: 100 }
    }

    #[test]
    fn a_user_waits_for_one_request_of_each_other_user() {
        let (mut waiting, interest, mut replies) = (Waiting::new(), Interest::default(), Vec::new());
        for serial in 0..100 {
            waiting.add(asked(1, serial, &interest, rooms(1)), &mut replies);
        }
        waiting.add(asked(2, 100, &interest, rooms(2)), &mut replies);
        let served: Vec<_> = (0..3).map(|_| waiting.next_rooms().unwrap().0.0).collect();
        assert_eq!(served, [1, 2, 1]);
        assert!(replies.is_empty());
    }

    #[test]
    fn requests_of_those_who_have_gone_are_not_served() {
        let (mut waiting, mut replies) = (Waiting::new(), Vec::new());
        let (gone, here) = (Interest::default(), Interest::default());
        let page = |from| {
            let request = PageRequest { from, ascending: true, up_to: 9, items_limit: 9, bytes_limit: 9 };
            StoreRequest::Page { room: RoomId(7), request }
        };
        for serial in 0..100 {
            waiting.add(asked(1, serial, &gone, page(serial.into())), &mut replies);
        }
        // The same page as one of those, which is read for this one.
        waiting.add(asked(2, 100, &here, page(50)), &mut replies);
        drop(gone);
        let ((_, request), reply_to) = waiting.next_page().unwrap();
        assert_eq!((request.from, reply_to.len()), (50, 1));
        assert!(waiting.next_page().is_none());
        assert_eq!((waiting.unwanted.len(), replies.len()), (100, 0));
    }

    #[test]
    fn one_user_cannot_fill_the_queue_and_makes_room_by_leaving() {
        let (mut waiting, mut replies) = (Waiting::new(), Vec::new());
        let (gone, here) = (Interest::default(), Interest::default());
        for serial in 0..USER_LIMIT as u32 + 1 {
            waiting.add(asked(1, serial, &gone, rooms(1)), &mut replies);
        }
        assert_eq!(replies.len(), 1);
        drop(gone);
        waiting.add(asked(1, 0, &here, rooms(1)), &mut replies);
        assert_eq!((replies.len(), waiting.unwanted.len()), (1, USER_LIMIT));
        assert!(waiting.next_rooms().is_some() && waiting.next_rooms().is_none());
    }
}
