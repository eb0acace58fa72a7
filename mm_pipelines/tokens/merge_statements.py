"""The statements of `subscription_token`, for ADBC: parameters are $1, $2 and so on.

$1 is the Page and $2 the time of the merge, unless the comment says otherwise.
"""

from typing import Final

from mm_pipelines.tokens.differences import DIFFERENCES, VALUES, columns

# Waits for the lock that serializes the merges of one Page, by pulls and by webhooks.
LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('subscription_token:' || $1, 0))::text"

# Lets sorting and joining 10 million tokens spill in runs of this size.
SORT_MEMORY: Final = "set local work_mem = '256MB'"

# Returns whether the Page has tokens.
IS_KNOWN: Final = "select exists (select from mm.subscription_token where page_id = $1) as known"

# Returns the listed tokens and their recipients.
LISTED_CONTACTS: Final = "select distinct token, recipient_id from listed_token"

# Removes the listed tokens of erased people.
EXCLUDE: Final = "delete from listed_token where token in (select token from excluded_token)"

# Stores the differences: $1 page_id, $2 pull_id, $3 whether the listing was whole.
COMPARE: Final = f"insert into token_difference {DIFFERENCES}"

# Returns the time of the merge.
NOW: Final = "select clock_timestamp() as now"

# Returns the number of differences by fate.
COUNT_DIFFERENCES: Final = """
select
    count(*) filter (where fate = 'changed') as changed,
    count(*) filter (where fate = 'returned') as returned,
    count(*) filter (where fate = 'vanished') as vanished
from token_difference
"""

# Returns the number of live tokens.
COUNT_LIVE: Final = """
select count(*) as live from mm.subscription_token where page_id = $1 and gone_at is null
"""

# Inserts new tokens and returns their number. A Page's first tokens, which may be millions, are
# inserted without the table of differences.
_INSERT = """
with appeared as (
    insert into mm.subscription_token (page_id, token, {values}, first_seen_at, last_seen_at)
    select $1, token, {values}, {now}, {now}
    from {differences}
    where fate = 'appeared'
    returning source
)
select count(*) as appeared, count(*) filter (where source = 'opt_in') as opted_in from appeared
"""
INSERT_COMPARED: Final = _INSERT.format(values=columns(), differences="token_difference", now="$2")
# $2 pull_id, $3 whether the listing was whole, $4 the time of the merge.
INSERT_FIRST: Final = _INSERT.format(
    values=columns(), differences=f"({DIFFERENCES}) as first", now="$4"
)

# The first tokens of all Pages: creating an index over a million rows takes half the time of adding
# each row to it. Readers wait meanwhile; a merge that is killed leaves the indexes as they were.
# Only one merge may lock the table, or two that have read it would wait for each other.

# Returns whether this merge may lock the table.
IS_ALONE: Final = """
select pg_has_role(relowner, 'usage')
       and pg_try_advisory_xact_lock(hashtextextended('subscription_token', 0)) as alone
from pg_class where oid = 'mm.subscription_token'::regclass
"""
LOCK_TABLE: Final = "lock table mm.subscription_token in access exclusive mode"

# Returns whether the table has no rows.
IS_EMPTY: Final = "select not exists (select from mm.subscription_token) as empty"

# Returns the indexes except the primary key's, and the statements that create them.
INDEXES: Final = """
select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
from pg_index
where indrelid = 'mm.subscription_token'::regclass and not indisprimary
"""
INDEX_MEMORY: Final = "set local maintenance_work_mem = '256MB'"

# Updates changed and returned tokens.
UPDATE_CHANGED: Final = f"""
update mm.subscription_token as known
set {", ".join(f"{name} = new.{name}" for name in VALUES)}, last_seen_at = $2, gone_at = null
from token_difference as new
where known.page_id = $1 and known.token = new.token and new.fate in ('changed', 'returned')
"""

# Marks vanished tokens as gone.
UPDATE_VANISHED: Final = """
update mm.subscription_token as known
set gone_at = $2
from token_difference as new
where known.page_id = $1 and known.token = new.token and new.fate = 'vanished'
"""

# Renews the live tokens, all of which a complete pull listed, except those seen since it began, and
# returns their number: $3 pull_id.
RENEW_ALL: Final = """
with renewed as (
    update mm.subscription_token
    set last_seen_at = $2
    where page_id = $1 and gone_at is null
        and last_seen_at < (select started_at from mm.token_pull where pull_id = $3)
    returning 1
)
select count(*) from renewed
"""

# Renews the listed tokens and returns their number.
RENEW_LISTED: Final = """
with renewed as (
    update mm.subscription_token
    set last_seen_at = $2
    where page_id = $1 and token in (select token from listed_token) and last_seen_at < $2
    returning 1
)
select count(*) from renewed
"""

# Records the changes of known tokens: $3 pull_id, 0 for none.
RECORD_CHANGES: Final = """
insert into mm.token_change (page_id, token, event, happened_at, pull_id, old_value, new_value)
select $1, token, fate, $2::timestamptz, nullif($3::bigint, 0), null, null
from token_difference
where fate in ('returned', 'vanished')
union all
select $1, token, 'status_changed', $2, nullif($3, 0), old_status, user_token_status
from token_difference
where fate in ('changed', 'returned') and user_token_status is distinct from old_status
union all
select $1, token, 'reoptin_changed', $2, nullif($3, 0), old_reoptin, reoptin
from token_difference
where fate in ('changed', 'returned') and reoptin is distinct from old_reoptin
union all
select $1, token, 'expiry_changed', $2, nullif($3, 0), old_expires_at::text, expires_at::text
from token_difference
where fate in ('changed', 'returned') and expires_at is distinct from old_expires_at
"""

# Requests the sender's file, which lacks these differences.
NOTE_CHANGE: Final = "insert into mm.sendable_change (page_id, reason) values ($1, 'pull')"

# Records the end of a pull: $1 pull_id.
FINISH_PULL: Final = """
update mm.token_pull
set finished_at = clock_timestamp(), complete = $2, method = $3, tokens_listed = $4,
    appeared = $5, changed = $6, returned = $7, vanished = $8
where pull_id = $1
"""
