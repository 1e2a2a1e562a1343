-- Folds the alerts of one poll into their buckets and moves the positions, all or nothing.
-- Its first write needs memory: a full Redis refuses it, and then nothing has been written.
--
-- KEYS
--   1 state_version         hash
--   2 positions             hash
--   3 source_positions      hash
--   4 marks                 hash
--   5 due                   zset
--   6 open                  zset
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
--   8 alerts_partitions     partitions of `alerts` according to the marks of this poll, 0 without marks
--   9 moves                 {{partition, start, end, timestamp}, ...}, all strings
--  10 new_source_positions  {pair, source position, ...}, all strings
--  11 new_marks             {pair, event time (ms), ...}
--  12 overflow              {{group, meta}, ...}
--  13 rows                  {{ROW_GROUP, ROW_META, ...}, ...}: at most one for each (group, bucket).
--                           ROW_OVERFLOW is an index of `overflow` from 0, ROW_MEMBERS is
--                           {fingerprint, alerts, newest - bucket start, flags, resource, ...}
-- Returns
--   {DONE, horizon or '', open groups, first open bucket or '', alerts in overflow groups}
--   {REPEATED, ..., 0}      the call was done before; otherwise like DONE
--   {CONFLICT}              a position differs: nothing was done
--   {STALE}                 another state version, or none: nothing was done
--   {BEHIND, horizon}       a row begins before horizon - grace: nothing was done
local CHUNK = 400
-- Locals, because every member needs these functions.
local struct_pack, struct_unpack, find = struct.pack, struct.unpack, string.find
local WHOLE_MEMBER = MEMBER .. 'c0'

if redis.call('HGET', state_version, NUMBER) ~= number then
  return {STALE}
end

local function reply(code, overflowed)
  local first = redis.call('ZRANGE', open, 0, 0, 'WITHSCORES')
  return {code, redis.call('HGET', marks, HORIZON) or '', redis.call('ZCARD', open), first[2] or '', overflowed}
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

-- A length fails on a key of the wrong type, here and below before anything is written.
redis.call('ZCARD', due)
redis.call('HLEN', source_positions)
local horizon = redis.call('HGET', marks, HORIZON)
local open_groups = redis.call('ZCARD', open)
local opened, overflowed = {}, 0
for _, row in ipairs(rows) do
  if horizon and row[ROW_FIRST] < tonumber(horizon) - grace then
    return {BEHIND, horizon}
  end
  if redis.call('HLEN', group_prefix .. row[ROW_GROUP]) == 0 and not opened[row[ROW_GROUP]] then
    if open_groups >= max_groups then
      local other = overflow[row[ROW_OVERFLOW] + 1]
      row[ROW_GROUP], row[ROW_META] = other[1], other[2]
      overflowed = overflowed + row[ROW_ALERTS]
      redis.call('HLEN', group_prefix .. row[ROW_GROUP])
    else
      open_groups = open_groups + 1
      opened[row[ROW_GROUP]] = true
    end
  end
  redis.call('HLEN', bucket_prefix .. row[ROW_GROUP] .. SEPARATOR .. row[ROW_START])
end

-- The first of two byte strings, independent of the server's locale.
local function lower(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y and a or b
    end
  end
  return #a < #b and a or b
end

-- `others` is the number of fields of the bucket that are not members.
local function fold_members(key, members, others, truncated, unqualified)
  local free = max_fingerprints - (redis.call('HLEN', key) - others)
  local step = CHUNK * MEMBER_VALUES
  for from = 1, #members, step do
    local fingerprints, count = {}, 0
    for at = from, math.min(from + step, #members + 1) - 1, MEMBER_VALUES do
      count = count + 1
      fingerprints[count] = members[at]
    end
    local before = redis.call('HMGET', key, unpack(fingerprints))
    local set, filled = {}, 0
    for i = 1, count do
      local at = from + (i - 1) * MEMBER_VALUES
      local alerts, last, flags, resource = members[at + 1], members[at + 2], members[at + 3], members[at + 4]
      local old = before[i]
      local keep = true
      if old then
        local old_alerts, old_last, old_flags = struct_unpack(MEMBER, old)
        local qualified = (flags >= QUALIFIED or old_flags >= QUALIFIED) and QUALIFIED or 0
        -- The other flag: whether the newest alert is resolved.
        local resolved, old_resolved = flags % QUALIFIED, old_flags % QUALIFIED
        if old_last > last then
          last, resolved = old_last, old_resolved
        elseif old_last == last and old_resolved > resolved then
          resolved = old_resolved
        end
        if #old ~= MEMBER_BYTES + #resource or find(old, resource, MEMBER_BYTES + 1, true) ~= MEMBER_BYTES + 1 then
          resource = lower(resource, string.sub(old, MEMBER_BYTES + 1))
        end
        alerts, flags = alerts + old_alerts, qualified + resolved
      elseif track_new and free > 0 then
        free = free - 1
      else
        keep, truncated = false, 1
        if flags < QUALIFIED then
          unqualified = unqualified + alerts
        end
      end
      if keep then
        set[filled + 1] = fingerprints[i]
        set[filled + 2] = struct_pack(WHOLE_MEMBER, alerts, last, flags, resource)
        filled = filled + 2
      end
    end
    if filled > 0 then
      redis.call('HSET', key, unpack(set))
    end
  end
  return truncated, unqualified
end

-- Enters a bucket that is new to its group into the indexes; returns the group's meta.
local function open_bucket(group, group_key, group_meta, row)
  local start, earliest = row[ROW_START], nil
  for _, field in ipairs(redis.call('HKEYS', group_key)) do
    local other = tonumber(field)
    if other and (not earliest or other < earliest) then
      earliest = other
    end
  end
  if not earliest then
    group_meta = row[ROW_META]
    redis.call('HSET', group_key, META_FIELD, group_meta)
    redis.call('ZADD', due, row[ROW_DUE], group)
    redis.call('ZADD', open, start, group)
  elseif tonumber(start) < earliest then
    redis.call('ZADD', due, 'LT', row[ROW_DUE], group)
    redis.call('ZADD', open, start, group)
  end
  redis.call('HSET', group_key, start, row[ROW_EXAMPLE])
  return group_meta
end

local function fold_row(row)
  local group, meta, start = row[ROW_GROUP], row[ROW_META], row[ROW_START]
  local alerts, first, last, late = row[ROW_ALERTS], row[ROW_FIRST], row[ROW_LAST], row[ROW_LATE]
  local rank, severity, example = row[ROW_RANK], row[ROW_SEVERITY], row[ROW_EXAMPLE]
  local group_key, key = group_prefix .. group, bucket_prefix .. group .. SEPARATOR .. start
  local known = redis.call('HMGET', key, SUMMARY_FIELD, META_FIELD)
  local before, own_meta = known[1], known[2]
  local others = (before and 1 or 0) + (own_meta and 1 or 0)
  local group_meta = redis.call('HGET', group_key, META_FIELD)
  local truncated, unqualified = 0, 0
  if before then
    local old_meta = own_meta or group_meta
    if meta ~= old_meta then
      meta = lower(meta, old_meta)
    end
    local old_alerts, old_first, old_last, old_late, old_rank, old_truncated, at = struct_unpack(SUMMARY, before)
    if old_first == first then
      example = lower(example, redis.call('HGET', group_key, start))
    end
    if old_first >= first then
      redis.call('HSET', group_key, start, example)
    end
    local old_severity = string.sub(before, at)
    local name_end = find(old_severity, UNQUALIFIED_SEPARATOR, 1, true)
    if name_end then
      unqualified = tonumber(string.sub(old_severity, name_end + 1)) or 0
      old_severity = string.sub(old_severity, 1, name_end - 1)
    end
    if old_rank < rank or (old_rank == rank and severity ~= old_severity) then
      severity = old_rank < rank and old_severity or lower(severity, old_severity)
      rank = old_rank
    end
    alerts, late, truncated = alerts + old_alerts, late + old_late, old_truncated
    first, last = math.min(first, old_first), math.max(last, old_last)
  else
    group_meta = open_bucket(group, group_key, group_meta, row)
  end
  truncated, unqualified = fold_members(key, row[ROW_MEMBERS], others, truncated, unqualified)
  -- All buckets of a group share its meta, unless the configuration changed while the group was open.
  if own_meta and meta == group_meta then
    redis.call('HDEL', key, META_FIELD)
  elseif meta ~= group_meta and meta ~= own_meta then
    redis.call('HSET', key, META_FIELD, meta)
  end
  local summary = struct_pack(SUMMARY, alerts, first, last, late, rank, truncated) .. severity
  if unqualified > 0 then
    summary = summary .. UNQUALIFIED_SEPARATOR .. string.format('%d', unqualified)
  end
  redis.call('HSET', key, SUMMARY_FIELD, summary)
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
for _, row in ipairs(rows) do
  fold_row(row)
end
return reply(DONE, overflowed)
