-- Folds the alerts of a poll, or of a portion of one, into their buckets and moves the positions, all or nothing.
-- Its first write needs memory: a full Redis refuses it, and then nothing has been written.
--
-- KEYS
--   1 state_version         hash
--   2 positions             hash
--   3 source_positions      hash
--   4 marks                 hash
--   5 due                   zset
--   6 open_since            hash
--   7 void                  never exists: so a cluster refuses the call while it moves the slot, when some of the
--                           buckets may be in another node
-- ARGV
--   1 number                of the state version that the caller folds into
--   2 group_prefix          prefix of group keys
--   3 bucket_prefix         prefix of bucket keys
--   4 grace                 in ms
--   5 max_fingerprints      most members of a bucket
--   6 max_groups            open groups from which on new ones are folded into overflow groups
--   7 track_new             whether new fingerprints become members, or are only counted
--   8 alerts_partitions     partitions of `alerts` according to the marks of this call, 0 without marks
--   9 moves                 {{partition, start, end, timestamp}, ...}, all strings
--  10 new_source_positions  {pair, source position, ...}, all strings
--  11 new_marks             {pair, event time (ms), ...}
--  12 overflow              {{group, meta}, ...}
--  13 rows                  {{ROW_GROUP, ROW_META, ...}, ...}: at most one for each (group, bucket).
--                           ROW_OVERFLOW is an index of `overflow` from 0. Of the members, ROW_FINGERPRINTS has the
--                           fingerprints, ROW_COUNTS alerts * FLAG_VALUES + flags, ROW_TIMES newest - bucket start,
--                           ROW_PREFIX_NUMBERS indexes of ROW_PREFIXES or 0, ROW_RESTS the rest of the resources, which
--                           begins with the same hash as the prefix
-- Returns
--   {DONE, horizon or '', open groups, first open bucket or '', alerts in overflow groups}
--   {REPEATED, ..., 0}      the call was done before; otherwise like DONE
--   {CONFLICT}              a position differs: nothing was done
--   {STALE}                 another state version, or none: nothing was done
--   {BEHIND, horizon}       a row begins before horizon - grace: nothing was done
if redis.call('HGET', state_version, NUMBER) ~= number then
  return {STALE}
end

local function reply(code, overflowed)
  return {code, redis.call('HGET', marks, HORIZON) or '', redis.call('ZCARD', due), first_open(open_since), overflowed}
end

local partitions = {}
for i, move in ipairs(moves) do
  partitions[i] = move[1]
end
local stored = redis.call('HMGET', positions, unpack(partitions))
local at_start, at_end = true, true
for i, move in ipairs(moves) do
  at_start = at_start and stored[i] == move[2]
  at_end = at_end and stored[i] == move[3]
end
if at_end then
  return reply(REPEATED, 0)
elseif not at_start then
  return {CONFLICT}
end

-- These commands fail on a key of the wrong type, here and below before anything is written.
redis.call('HLEN', open_since)
redis.call('HLEN', source_positions)
local horizon = redis.call('HGET', marks, HORIZON)
local open_groups = redis.call('ZCARD', due)
local opened, overflowed = {}, 0
-- By row: the key of the bucket, and what it holds. Summaries are false where an earlier row changes them.
local bucket_keys, summaries, own_metas = {}, {}, {}
-- By name: the value of an open group, or false; and what it holds, where a row needed it.
local values, groups = {}, {}
-- By bucket: most members and prefixes after this call.
local members_after, prefixes_after = {}, {}
local function is_open(name)
  if values[name] == nil then
    values[name] = redis.call('GET', group_prefix .. name)
  end
  return values[name]
end

for number, row in ipairs(rows) do
  if horizon and row[ROW_FIRST] < tonumber(horizon) - grace then
    return {BEHIND, horizon}
  end
  if not is_open(row[ROW_GROUP]) and not opened[row[ROW_GROUP]] then
    if open_groups >= max_groups then
      local other = overflow[row[ROW_OVERFLOW] + 1]
      row[ROW_GROUP], row[ROW_META] = other[1], other[2]
      overflowed = overflowed + row[ROW_ALERTS]
      is_open(row[ROW_GROUP])
    else
      open_groups = open_groups + 1
      opened[row[ROW_GROUP]] = true
    end
  end
  local key = bucket_prefix .. row[ROW_GROUP] .. SEPARATOR .. row[ROW_START]
  local found = redis.call('HMGET', key, SUMMARY_FIELD, META_FIELD)
  local summary, members, bits, prefixes = found[1], 0, 0, 0
  if summary then
    members, bits, prefixes = select(7, struct_unpack(SUMMARY, summary))
  end
  bucket_keys[number] = key
  -- Rows of several groups may fold into the same bucket of an overflow group.
  summaries[number], own_metas[number] = not members_after[key] and summary, found[2]
  members_after[key] = (members_after[key] or members) + #row[ROW_FINGERPRINTS]
  prefixes_after[key] = (prefixes_after[key] or prefixes) + #row[ROW_PREFIXES]
  check_parts(key, row[ROW_FINGERPRINTS], bits, members_after[key], prefixes_after[key])
end

-- Enters a bucket that is new to its group into the indexes.
local function open_bucket(examples, row)
  local name, start, first = row[ROW_GROUP], row[ROW_START], first_bucket(examples)
  if not first then
    redis.call('ZADD', due, row[ROW_DUE], name)
    add_open(open_since, start, 1)
  elseif tonumber(start) < tonumber(first) then
    redis.call('ZADD', due, 'LT', row[ROW_DUE], name)
    add_open(open_since, first, -1)
    add_open(open_since, start, 1)
  end
end

-- Index of the start of a bucket: after the end, if the bucket is new.
local function index_of(examples, start)
  for at = 1, #examples, 2 do
    if examples[at] == start then
      return at
    end
  end
  return #examples + 1
end

-- Groups by name that must be written.
local changed = {}

-- Keeps the example of the first alert of a bucket, of which `before` is what Redis had.
local function keep_example(row, group, before)
  local name, start, example = row[ROW_GROUP], row[ROW_START], row[ROW_EXAMPLE]
  local examples = group.examples or (group.at and read_examples(values[name], group.at)) or {}
  group.examples = examples
  local at = index_of(examples, start)
  local old = examples[at + 1]
  if not before then
    open_bucket(examples, row)
  elseif old and before.first == row[ROW_FIRST] then
    example = lower(example, old)
  end
  if example ~= old then
    examples[at], examples[at + 1] = start, example
    changed[name] = group
  end
end

-- The group of a row, which may be new.
local function group_of(row)
  local name = row[ROW_GROUP]
  local group = groups[name]
  if not group then
    group = {meta = row[ROW_META]}
    if values[name] then
      group.meta, group.at = read_meta(values[name])
    end
    groups[name] = group
  end
  return group
end

local function fold_row(number, row)
  local meta, group = row[ROW_META], group_of(row)
  local key, before, own_meta = bucket_keys[number], summaries[number], own_metas[number]
  if not before then
    -- An earlier row may have opened the bucket.
    before, own_meta = unpack(redis.call('HMGET', key, SUMMARY_FIELD, META_FIELD))
  end
  local bucket
  if before then
    local old_meta = own_meta or group.meta
    if meta ~= old_meta then
      meta = lower(meta, old_meta)
    end
    bucket = unpack_summary(before)
    if row[ROW_FIRST] <= bucket.first then
      keep_example(row, group, bucket)
    end
    merge_summaries(bucket, row)
  else
    bucket = {
      alerts = row[ROW_ALERTS], first = row[ROW_FIRST], last = row[ROW_LAST], late = row[ROW_LATE],
      rank = row[ROW_RANK], severity = row[ROW_SEVERITY],
      truncated = 0, members = 0, bits = 0, prefixes = 0, unqualified = 0,
    }
    keep_example(row, group, nil)
  end
  -- All buckets of a group share its meta, unless the configuration changed while the group was open.
  if own_meta and meta == group.meta then
    redis.call('HDEL', key, META_FIELD)
  elseif meta ~= group.meta and meta ~= own_meta then
    redis.call('HSET', key, META_FIELD, meta)
  end
  fold_members(key, row, bucket)
end

for _, move in ipairs(moves) do
  redis.call('HSET', positions, move[1], move[3], move[1] .. TIMESTAMP_SUFFIX, move[4])
end
-- There may be thousands of partition pairs: one command takes some hundreds.
for from = 1, #new_source_positions, CHUNK * 2 do
  local to = math.min(from + CHUNK * 2 - 1, #new_source_positions)
  redis.call('HSET', source_positions, unpack(new_source_positions, from, to))
end
for from = 1, #new_marks, CHUNK * 2 do
  local fields, set = {}, {}
  for at = from, math.min(from + CHUNK * 2 - 1, #new_marks), 2 do
    fields[#fields + 1] = new_marks[at]
  end
  for i, known in ipairs(redis.call('HMGET', marks, unpack(fields))) do
    local time = new_marks[from + i * 2 - 1]
    if not known or tonumber(known) < time then
      set[#set + 1] = fields[i]
      set[#set + 1] = string.format('%d', time)
    end
  end
  if #set > 0 then
    redis.call('HSET', marks, unpack(set))
  end
end
if #new_marks > 0 then
  redis.call('HINCRBY', marks, MARKS_VERSION, 1)
end
if alerts_partitions > tonumber(redis.call('HGET', marks, ALERTS_PARTITIONS) or '0') then
  redis.call('HSET', marks, ALERTS_PARTITIONS, alerts_partitions)
end
for number, row in ipairs(rows) do
  fold_row(number, row)
end
for name, group in pairs(changed) do
  redis.call('SET', group_prefix .. name, pack_group(group.meta, group.examples))
end
return reply(DONE, overflowed)
