//! One suite for every store: what is listed here runs on SQLite, on PostgreSQL and on the store in memory by the same
//! code. What is special to a database, its file or its server, is in `sqlite_only` and `postgres_only`.

mod append;
mod harness;
mod history;
mod markers;
mod model;
mod open;
mod postgres_only;
mod races;
mod rooms;
mod sqlite_only;
mod users;

macro_rules! on_every_store {
    ($($module:ident: $($case:ident),+;)+) => {
        mod sqlite {
            $($(#[test] fn $case() { crate::harness::on_sqlite(crate::$module::$case) })+)+
        }
        mod postgres {
            $($(#[test] fn $case() { crate::harness::on_postgres(crate::$module::$case) })+)+
        }
        mod memory {
            $($(#[test] fn $case() { crate::harness::on_memory(crate::$module::$case) })+)+
        }
    };
}

on_every_store! {
    append:
        offsets_and_numbers_go_up_without_holes,
        many_rooms_in_one_batch,
        a_batch_of_512_and_one_of_none,
        a_committed_batch_sent_again,
        one_id_twice_in_one_batch,
        one_id_in_two_batches,
        an_id_is_the_senders_and_the_rooms_own,
        refused_items_among_good_ones,
        an_id_of_a_refused_item_is_free,
        any_unicode_comes_back_as_it_was,
        nul_is_refused_by_the_item,
        shapes_that_are_none,
        an_edit_changes_the_message,
        edits_are_known_by_their_id_alone,
        a_deletion_blanks_the_message,
        a_deletion_of_what_is_deleted_is_again,
        two_deletions_in_one_batch,
        reactions_are_a_set,
        a_deletion_takes_the_reactions_along,
        items_of_one_batch_see_each_other,
        replies,
        who_left_may_retry_but_not_send,
        offsets_beyond_everything;
    history:
        pages_in_both_directions,
        pages_end_at_their_limits,
        pages_show_what_is_there_now,
        a_page_of_no_room,
        heads_in_the_order_asked,
        chats_in_both_directions,
        chats_show_messages_only,
        chats_are_for_members;
    rooms:
        a_room_and_its_owner,
        names_are_unique,
        a_private_room_does_not_exist_outside,
        finding_rooms,
        joining_and_unread,
        a_full_room,
        admitting_many_at_once,
        leaving,
        removing,
        adding,
        listing_members,
        a_deleted_room_is_gone_and_its_name_is_free,
        only_the_owner_deletes;
    markers:
        markers_move_forward_only,
        markers_are_for_members,
        a_pair_twice_in_one_call,
        many_markers_at_once,
        coming_back_begins_at_the_head,
        the_rooms_of_a_user,
        rooms_of_a_user_by_name;
    users:
        accounts,
        taken_names,
        ensured_users,
        passwords,
        revocations;
    races:
        two_writers_to_one_room,
        batches_over_the_same_rooms_in_other_orders,
        one_item_from_many_at_once,
        joins_for_the_last_place,
        joins_leaves_and_messages,
        pages_while_writing,
        one_name_for_one_room_and_one_user,
        appends_to_a_room_being_deleted,
        given_up_appends,
        given_up_joins_and_leaves;
    model:
        random_batches_like_the_model,
        how_a_batch_is_cut_changes_nothing;
}
