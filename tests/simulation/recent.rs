//! The latest publications of a room, which its home hands out to readers of the log.

use crate::shard::{Rig, subscribe};
use serde_json::json;
use uproar_core::message::Recent;
use uproar_core::protocol::Entry;
use uproar_core::{Endpoint, Message};
use uproar_model::{Kind, Offset, RoomId};

const CHANNEL: &str = "room:room0";

fn recent(rig: &mut Rig, room: RoomId, after: Offset) -> Option<Box<Recent>> {
    rig.shard.receive(rig.now(), Endpoint::Http, Message::GetRecent { number: 7, room, after }, &mut rig.host);
    let answer = rig.host.mesh.iter().position(|(_, message)| matches!(message, Message::Recent { .. }));
    let (to, answer) = rig.host.mesh.remove(answer.expect("an answer"));
    let Message::Recent { number, recent } = answer else { unreachable!() };
    assert_eq!((to, number), (Endpoint::Http, 7));
    recent
}

/// The offset, kind and text of each publication after this offset.
fn shown(rig: &mut Rig, room: RoomId, after: Offset) -> Vec<(Offset, Kind, Option<String>)> {
    let segments = recent(rig, room, after).expect("they are in memory").segments;
    let entries = segments.iter().flat_map(|segment| &segment.entries);
    let publications = entries.map(|entry| match entry {
        Entry::Stored(publication) => publication,
        Entry::Live(_) => panic!("a room stores everything"),
    });
    let rows = publications.map(|p| (p.offset, p.kind, p.body.as_deref().map(str::to_owned)));
    rows.filter(|(offset, ..)| *offset > after).collect()
}

#[test]
fn a_home_hands_out_what_it_has_shown_as_it_is_now() {
    let mut rig = Rig::new(2);
    let (room, other) = (rig.store.room_id(0), rig.store.room_id(1));
    rig.store_messages(0, 3, 1);
    assert!(recent(&mut rig, room, 0).is_none(), "nobody is in the room, so it is not in memory");
    let ann = rig.join(2, CHANNEL);
    let from = rig.store.head(0);
    let say = |rig: &mut Rig, id: u32, data: serde_json::Value| {
        rig.send_commands(ann, [json!({"id": id, "publish": {"channel": CHANNEL, "data": data}})]);
        rig.run_for(20);
    };
    say(&mut rig, 3, json!({"text": "one"}));
    say(&mut rig, 4, json!({"text": "two"}));
    let text = |text: &str| Some(text.to_owned());
    let (one, two) = ((from + 1, Kind::Message, text("one")), (from + 2, Kind::Message, text("two")));
    assert_eq!(shown(&mut rig, room, from), [one, two.clone()]);
    say(&mut rig, 5, json!({"edit": from + 1, "text": "1"}));
    let (edited, edit) = ((from + 1, Kind::Message, text("1")), (from + 3, Kind::Edit, text("1")));
    assert_eq!(shown(&mut rig, room, from), [edited, two.clone(), edit.clone()]);
    assert_eq!(shown(&mut rig, room, from + 1), [two, edit]);
    say(&mut rig, 6, json!({"delete": from + 1}));
    assert_eq!(shown(&mut rig, room, from)[0], (from + 1, Kind::Message, None), "its text leaves the memory, too");

    assert_eq!(recent(&mut rig, room, from).unwrap().head, from + 4);
    assert_eq!(recent(&mut rig, room, from).unwrap().epoch, rig.store.head_of(room).unwrap().epoch);
    assert!(recent(&mut rig, room, from + 4).is_none(), "there is nothing more");
    assert!(recent(&mut rig, room, 0).is_none(), "what was before is not in memory");
    assert!(recent(&mut rig, other, 0).is_none() && recent(&mut rig, RoomId(999), 0).is_none());
    rig.send_commands(ann, [subscribe(7, "room:room1")]);
    rig.run_for(20);
    rig.shard.receive(rig.now(), Endpoint::Http, Message::CloseRoom { room }, &mut rig.host);
    rig.run_for(20);
    assert!(recent(&mut rig, room, from).is_none(), "the room is gone");
}
