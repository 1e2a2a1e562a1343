-- Folds the alerts of one poll into their buckets and moves the positions, all or nothing.
--
-- KEYS  1 epoch (hash)   2 positions (hash)   3 origins (hash)   4 marks (hash)   5 due (zset)   6 open (zset)
-- ARGV  1 number of the epoch   2 prefix of group keys   3 prefix of bucket keys   4 batch (msgpack):
--         { grace, max_fingerprints, max_groups, list_new (0|1), alerts_partitions,
--           moves     {{partition, start, end, timestamp}, ...}    strings
--           origins   {field, origin, ...}                         strings
--           marks     {field, event time, ...}
--           overflow  {{group, meta}, ...}                         groups that take the place of new ones
--           rows      {{group, meta, overflow index (from 0), bucket start, due, alerts, first, last, rank, severity, late,
--                       example, members {fingerprint, alerts, last - start, flags, resource, ...}}, ...} }
--       Rows of one batch name each (group, bucket) once.
-- Returns {0, horizon or '', open groups, first open bucket or '', overflowed}   folded
--         {1, ..., 0}                                                            the same, folded before: a resent call
--         {2}                                                                    a position is another: reload, seek
--         {3}                                                                    another epoch, or none: reload
--         {4, horizon}                                                           a row begins before horizon - grace
--       overflowed: how many alerts went into groups of overflow
local epoch, positions, origins, marks, due, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local number, group_prefix, bucket_prefix = ARGV[1], ARGV[2], ARGV[3]
local grace, max_fingerprints, max_groups, list_new, alerts_partitions, moves, new_origins, new_marks, overflow, rows =
  unpack(cmsgpack.unpack(ARGV[4]))
local CHUNK = 400
local AGGREGATE = '>I4I8I8I4BB'
local MEMBER, MEMBER_BYTES = '>I4I4B', 9
local WHOLE_MEMBER = MEMBER .. 'c0'
local FIRED = 2  -- of a member's flags; the rest, 0 or 1, is whether it is resolved
-- Taken out once: every member needs them.
local struct_pack, struct_unpack, find = struct.pack, struct.unpack, string.find

if redis.call('HGET', epoch, 'number') ~= number then
  return {3}
end

local function reply(code, overflowed)
  local first = redis.call('ZRANGE', open, 0, 0, 'WITHSCORES')
  return {code, redis.call('HGET', marks, 'h') or '', redis.call('ZCARD', open), first[2] or '', overflowed}
end

local names = {}
for i, move in ipairs(moves) do
  names[i] = move[1]
end
local stored = redis.call('HMGET', positions, unpack(names))
local at_start, at_end = true, true
for i, move in ipairs(moves) do
  at_start = at_start and stored[i] == move[2]
  at_end = at_end and stored[i] == move[3]
end
if at_end then
  return reply(1, 0)
elseif not at_start then
  return {2}
end

-- Lengths, here and below: asking for them proves a key's type before anything is written.
redis.call('ZCARD', due)
redis.call('HLEN', origins)
local horizon = redis.call('HGET', marks, 'h')
local opened = redis.call('ZCARD', open)
local seen, overflowed = {}, 0
for _, row in ipairs(rows) do
  if horizon and row[7] < tonumber(horizon) - grace then
    return {4, horizon}
  end
  if redis.call('HLEN', group_prefix .. row[1]) == 0 and not seen[row[1]] then
    if opened >= max_groups then
      local other = overflow[row[3] + 1]
      row[1], row[2] = other[1], other[2]
      overflowed = overflowed + row[6]
      redis.call('HLEN', group_prefix .. row[1])
    else
      opened = opened + 1
      seen[row[1]] = true
    end
  end
  redis.call('HLEN', bucket_prefix .. row[1] .. ':' .. row[4])
end

-- Which of two byte strings comes first, whatever the server's locale.
local function lower(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y and a or b
    end
  end
  return #a < #b and a or b
end

local function fold_members(key, start, members, others, truncated)
  local room = max_fingerprints - (redis.call('HLEN', key) - others)
  for from = 1, #members, CHUNK * 5 do
    local fingerprints, count = {}, 0
    for at = from, math.min(from + CHUNK * 5, #members + 1) - 1, 5 do
      count = count + 1
      fingerprints[count] = members[at]
    end
    local before = redis.call('HMGET', key, unpack(fingerprints))
    local set, filled = {}, 0
    for i = 1, count do
      local at = from + (i - 1) * 5
      local alerts, last, flags, resource = members[at + 1], members[at + 2], members[at + 3], members[at + 4]
      local old = before[i]
      local keep = true
      if old then
        local old_alerts, old_last, old_flags = struct_unpack(MEMBER, old)
        local fired = (flags >= FIRED or old_flags >= FIRED) and FIRED or 0
        local resolved, old_resolved = flags % FIRED, old_flags % FIRED
        if old_last > last then
          last, resolved = old_last, old_resolved
        elseif old_last == last and old_resolved > resolved then
          resolved = old_resolved
        end
        if #old ~= MEMBER_BYTES + #resource or find(old, resource, MEMBER_BYTES + 1, true) ~= MEMBER_BYTES + 1 then
          resource = lower(resource, string.sub(old, MEMBER_BYTES + 1))
        end
        alerts, flags = alerts + old_alerts, fired + resolved
      elseif list_new == 1 and room > 0 then
        room = room - 1
      else
        keep, truncated = false, 1
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
  return truncated
end

local function fold_row(group, meta, start, row_due, alerts, first, last, rank, severity, late, example, members)
  local group_key, key = group_prefix .. group, bucket_prefix .. group .. ':' .. start
  local known = redis.call('HMGET', key, 'a', 'm')
  local before, own_meta = known[1], known[2]
  local others = (before and 1 or 0) + (own_meta and 1 or 0)
  local group_meta = redis.call('HGET', group_key, 'm')
  local truncated = 0
  if before then
    local old_meta = own_meta or group_meta
    if meta ~= old_meta then
      meta = lower(meta, old_meta)
    end
    local old_alerts, old_first, old_last, old_late, old_rank, old_truncated, at =
      struct.unpack(AGGREGATE, before)
    if old_first == first then
      example = lower(example, redis.call('HGET', group_key, start))
    end
    if old_first >= first then
      redis.call('HSET', group_key, start, example)
    end
    local old_severity = string.sub(before, at)
    if old_rank < rank or (old_rank == rank and severity ~= old_severity) then
      severity = old_rank < rank and old_severity or lower(severity, old_severity)
      rank = old_rank
    end
    alerts, late, truncated = alerts + old_alerts, late + old_late, old_truncated
    first, last = math.min(first, old_first), math.max(last, old_last)
  else
    local earliest = nil
    for _, field in ipairs(redis.call('HKEYS', group_key)) do
      local other = tonumber(field)
      if other and (not earliest or other < earliest) then
        earliest = other
      end
    end
    if not earliest then
      group_meta = meta
      redis.call('HSET', group_key, 'm', meta)
      redis.call('ZADD', due, row_due, group)
      redis.call('ZADD', open, start, group)
    elseif tonumber(start) < earliest then
      redis.call('ZADD', due, 'LT', row_due, group)
      redis.call('ZADD', open, start, group)
    end
    redis.call('HSET', group_key, start, example)
  end
  truncated = fold_members(key, tonumber(start), members, others, truncated)
  -- The same for all buckets of a group, unless the configuration was changed while it was open.
  if own_meta and meta == group_meta then
    redis.call('HDEL', key, 'm')
  elseif meta ~= group_meta and meta ~= own_meta then
    redis.call('HSET', key, 'm', meta)
  end
  redis.call('HSET', key, 'a', struct.pack(AGGREGATE, alerts, first, last, late, rank, truncated) .. severity)
end

-- The first write: a full Redis refuses it, and nothing has happened.
for _, move in ipairs(moves) do
  redis.call('HSET', positions, move[1], move[3], move[1] .. ':t', move[4])
end
-- Of many partitions there are thousands: some hundreds in one command.
for from = 1, #new_origins, CHUNK * 2 do
  redis.call('HSET', origins, unpack(new_origins, from, math.min(from + CHUNK * 2 - 1, #new_origins)))
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
  redis.call('HINCRBY', marks, 'b', 1)
end
if alerts_partitions > tonumber(redis.call('HGET', marks, 'n') or '0') then
  redis.call('HSET', marks, 'n', alerts_partitions)
end
for _, row in ipairs(rows) do
  fold_row(row[1], row[2], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11], row[12], row[13])
end
return reply(0, overflowed)
