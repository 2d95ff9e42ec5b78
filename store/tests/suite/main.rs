//! One suite for every store. The cases listed here run on SQLite, on PostgreSQL and on the store in memory. Cases
//! about SQLite's file or PostgreSQL's server are in `sqlite_only` and `postgres_only`.

mod api_keys;
mod append;
mod direct;
mod fixture;
mod harness;
mod history;
mod hooks;
mod invites;
mod judgement;
mod markers;
mod memberships;
mod model;
mod nodes;
mod open;
mod positions;
mod postgres_only;
mod races;
mod rights;
mod rooms;
mod sqlite_only;
mod users;

macro_rules! on_every_store {
    ($limit:expr, $sqlite:ident, $postgres:ident, $memory:ident; $($module:ident: $($case:ident),+;)+) => {
        mod $sqlite {
            $($(#[test] fn $case() { crate::harness::on_sqlite($limit, crate::$module::$case) })+)+
        }
        mod $postgres {
            $($(#[test] fn $case() { crate::harness::on_postgres($limit, crate::$module::$case) })+)+
        }
        mod $memory {
            $($(#[test] fn $case() { crate::harness::on_memory($limit, crate::$module::$case) })+)+
        }
    };
}

// With `join_leave_limit` 0, because these cases count the offsets of what they append: joins have none.
on_every_store! {
    0, sqlite, postgres, memory;
    api_keys:
        a_key_is_found_by_its_hash_until_it_is_removed,
        the_number_of_keys_is_bounded,
        the_audit_log_keeps_its_newest_rows,
        a_room_is_found_for_users_who_are_not_members,
        a_renamed_user_keeps_the_former_name,
        a_user_has_only_so_many_former_names,
        a_name_may_not_look_like_a_former_one;
    append:
        offsets_and_numbers_have_no_gaps,
        one_batch_can_append_to_many_rooms,
        batches_of_512_items_and_of_none_are_accepted,
        a_committed_batch_sent_again_gets_the_same_offsets,
        an_id_used_twice_in_one_batch_is_stored_once,
        an_id_used_in_two_batches_is_stored_once,
        ids_are_unique_per_sender_and_room,
        refused_items_do_not_affect_the_others,
        the_id_of_a_refused_item_can_be_used_again,
        any_unicode_text_is_stored_unchanged,
        items_with_nul_are_refused_one_by_one,
        malformed_items_are_refused,
        an_edit_changes_the_message,
        edits_are_recognized_by_their_id_alone,
        a_deletion_removes_the_text_of_the_message,
        meta_is_kept_until_the_message_is_deleted,
        meta_is_part_of_the_content_of_a_message,
        only_messages_have_meta,
        deleting_a_deleted_message_is_a_duplicate,
        a_second_deletion_in_one_batch_is_a_duplicate,
        reactions_are_a_set,
        a_reaction_that_changes_nothing_is_a_duplicate_of_the_message,
        reactions_are_listed_in_the_order_in_which_they_came,
        reactions_are_bounded_by_message_and_by_user,
        a_deletion_removes_the_reactions,
        items_of_one_batch_see_each_other,
        replies_need_a_message_that_exists_or_was_deleted,
        a_former_member_can_retry_but_not_send,
        targets_beyond_the_log_are_refused;
    direct:
        the_same_people_find_the_same_direct_room,
        concurrent_calls_open_one_direct_room,
        the_members_of_a_direct_room_stay,
        a_direct_room_does_not_exist_for_strangers,
        direct_rooms_are_listed_with_their_people,
        people_who_block_each_other_get_no_new_direct_room,
        nobody_posts_in_the_direct_room_of_people_who_block_each_other,
        blocks_are_listed_and_bounded;
    judgement:
        a_silenced_member_can_only_take_back,
        a_silence_does_not_refuse_what_is_stored_already,
        a_silence_ends_by_the_databases_clock,
        a_silence_concerns_moderators_and_one_room_only,
        a_room_may_be_for_moderators_only_or_for_nobody,
        slow_mode_holds_within_a_batch_and_between_batches,
        slow_mode_ends_by_the_databases_clock,
        slow_mode_concerns_new_messages_of_members_only,
        what_slow_mode_refuses_does_not_count,
        limits_of_one_room_do_not_affect_others;
    history:
        pages_can_be_read_in_both_directions,
        pages_end_at_their_limits,
        pages_show_the_current_content,
        a_page_says_which_viewers_are_members,
        a_missing_room_has_no_page,
        heads_are_in_the_order_of_the_request,
        a_sweep_finds_the_rooms_whose_heads_are_not_where_they_are_expected,
        messages_can_be_read_in_both_directions,
        message_pages_hold_only_messages,
        only_members_can_read_messages;
    markers:
        markers_move_forward_only,
        only_members_have_markers,
        the_highest_of_several_markers_wins,
        one_call_moves_many_markers,
        the_marker_of_a_returning_member_starts_at_the_head,
        unwritten_markers_count_in_a_users_rooms,
        only_messages_of_others_that_still_exist_are_unread,
        a_users_rooms_have_heads_and_markers,
        a_users_rooms_are_listed_by_name;
    positions:
        a_position_moves_only_from_where_it_is,
        one_call_moves_many_positions,
        rooms_are_unread_until_the_position_is_at_the_head,
        a_new_reader_starts_at_the_heads_and_in_new_rooms_at_the_start,
        a_preparation_is_completed_before_the_filter_changes_again,
        a_reader_stays_paused_until_it_is_told_otherwise,
        preparing_ends_a_batch,
        followers_hear_of_all_that_is_committed,
        a_deleted_room_leaves_no_position;
    users:
        an_account_is_found_by_id_name_and_address,
        taken_names_and_addresses_are_refused,
        ensure_user_creates_a_user_once,
        a_user_of_another_system_is_created_once,
        a_user_of_another_system_gets_a_name_that_is_free,
        a_password_changes_only_if_the_expected_hash_matches,
        revocations_are_listed_by_time,
        a_blocked_user_stays_revoked_until_unblocked,
        a_revocation_is_dated_by_the_database,
        a_poll_of_revocations_goes_back_a_little,
        the_longest_lifetime_of_tokens_is_remembered;
    races:
        concurrent_writers_to_one_room_get_distinct_offsets,
        batches_with_the_same_rooms_in_different_orders_do_not_deadlock,
        an_item_sent_concurrently_is_stored_once,
        concurrent_joins_do_not_overfill_a_room,
        pages_read_during_writes_are_consistent,
        concurrent_creations_of_one_name_succeed_once,
        concurrent_first_sights_of_one_identity_create_one_user,
        a_name_that_many_want_at_once_goes_to_one,
        a_name_that_is_given_up_stays_with_its_user,
        concurrent_renamings_of_one_user_lose_no_name,
        a_member_is_removed_by_either_name_during_a_renaming,
        appends_to_a_room_being_deleted_are_stored_or_refused,
        abandoned_appends_can_be_repeated;
}

// With joins in the log, as a server has them.
on_every_store! {
    uproar_store::OpenOptions::default().join_leave_limit, sqlite_with_joins, postgres_with_joins, memory_with_joins;
    api_keys:
        a_key_makes_anybody_a_member_of_any_room,
        a_key_removes_members_and_rooms,
        users_are_found_by_what_another_system_calls_them;
    rooms:
        a_new_room_has_its_owner_as_the_only_member,
        room_names_are_unique,
        a_private_room_does_not_exist_for_strangers,
        rooms_are_found_by_name_and_title,
        a_new_member_has_nothing_unread,
        nobody_can_join_a_full_room,
        one_call_admits_many_users,
        a_member_can_leave_but_the_owner_cannot,
        the_owner_can_remove_members_and_members_cannot,
        the_owner_can_add_members_and_members_cannot,
        members_are_listed_by_id,
        a_deleted_room_is_gone_and_its_name_is_free,
        the_name_of_a_deleted_room_is_reserved_for_its_owner,
        only_so_many_names_are_reserved_for_one_owner,
        a_name_that_looks_like_a_reserved_one_is_reserved_too,
        only_the_owner_can_delete_a_room;
    hooks:
        a_hook_is_found_by_its_secret,
        hooks_are_managed_by_owners_and_moderators,
        a_room_has_so_many_hooks_and_each_name_once,
        a_hook_never_gets_the_account_of_a_person,
        the_hooks_of_a_deleted_room_are_gone;
    invites:
        an_invite_leads_into_a_private_room,
        members_use_up_no_invite,
        an_invite_ends_when_it_is_used_up_expired_or_revoked,
        an_invite_is_void_when_its_creator_may_not_invite,
        members_invite_where_the_room_lets_them,
        a_banned_user_can_not_use_an_invite,
        invites_are_managed_by_owners_and_moderators,
        the_invites_of_a_room_are_bounded,
        a_user_signs_up_with_an_invite_or_not_at_all,
        an_invite_of_the_operator_needs_no_room,
        concurrent_uses_of_an_invite_do_not_exceed_its_limit;
    memberships:
        a_new_membership_is_in_the_log,
        what_changes_nothing_is_not_in_the_log,
        only_small_rooms_tell_of_joins,
        joins_and_departures_are_no_messages,
        changes_of_membership_are_read_between_offsets;
    rights:
        an_owner_changes_roles,
        a_room_always_has_an_owner,
        two_owners_can_not_both_step_down,
        a_ban_keeps_a_user_out,
        a_banned_user_does_not_see_a_private_room,
        a_ban_ends_by_itself,
        a_ban_deletes_messages,
        a_silence_is_seen_by_those_whom_it_concerns,
        an_owner_changes_settings,
        messages_are_pinned_until_they_are_deleted,
        what_was_done_is_in_the_audit_log,
        a_renamed_user_can_be_banned_by_either_name,
        rights_go_with_their_room;
    races:
        concurrent_joins_and_leaves_keep_the_member_count_right,
        abandoned_joins_and_leaves_can_be_repeated;
    model:
        random_batches_match_the_model,
        the_division_into_batches_changes_nothing;
}
