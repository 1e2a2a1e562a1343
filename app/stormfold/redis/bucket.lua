-- A bucket: a string of its summary, the first part of its members, and the end: its severity, its meta unless it is the
-- group's, and prefixes of resources. More parts are strings of their own. Part of fold.lua, which has the arguments.
--
-- Once read, a bucket is a table: its summary by name, the values at its end, the `parts` that were read so far, and
-- whether it must be written as a `whole`.

-- Strings by key, or false, as they are in Redis now: rows of one call may share a bucket.
local values = {}
local function get(key)
  local value = values[key]
  if value == nil then
    value = redis.call('GET', key)
    values[key] = value
  end
  return value
end

-- Key of a part of a bucket.
local function part_key(key, part)
  return part == 0 and key or key .. SEPARATOR .. part
end

-- Binary logarithm of the number of parts of a bucket with this many members.
local function bits_of(members)
  if members <= WHOLE_MEMBERS then
    return 0
  end
  local bits = 1
  while members > PART_MEMBERS * 2 ^ bits do
    bits = bits + 1
  end
  return bits
end

-- The part of one of some fingerprints.
local function part_of(fingerprints, i, parts)
  local high, low = byte(fingerprints, i * FINGERPRINT_BYTES - 1, i * FINGERPRINT_BYTES)
  return (high * 256 + low) % parts
end

-- Indexes of a row's members by the part that has them; false stands for all.
local ALL = {[0] = false}
local function by_part(fingerprints, bits)
  if bits == 0 then
    return ALL
  end
  local lists, parts = {}, 2 ^ bits
  for i = 1, #fingerprints / FINGERPRINT_BYTES do
    local part = part_of(fingerprints, i, parts)
    local list = lists[part]
    if not list then
      list = {}
      lists[part] = list
    end
    list[#list + 1] = i
  end
  return lists
end

-- Reads the strings that a row will need. Fails on one of a wrong type.
local function check_parts(key, row, bits, members_after)
  row.bits, row.lists = bits, by_part(row[ROW_FINGERPRINTS], bits)
  for part in pairs(row.lists) do
    get(part_key(key, part))
  end
  local bits_after = bits_of(members_after)
  if bits_after > bits then
    for part = 1, 2 ^ bits_after - 1 do
      redis.call('STRLEN', part_key(key, part))
    end
  end
end

local function new_bucket(row)
  return {
    alerts = row[ROW_ALERTS], first = row[ROW_FIRST], last = row[ROW_LAST], late = row[ROW_LATE], rank = row[ROW_RANK],
    truncated = 0, members = 0, bits = 0, unqualified = 0, tail = {row[ROW_SEVERITY], ''}, parts = {[0] = new_part()},
    whole = true,
  }
end

local function read_bucket(value)
  local alerts, first, last, late, rank, truncated, members, bits, unqualified, tail_at, at = struct_unpack(SUMMARY, value)
  return {
    alerts = alerts, first = first, last = last, late = late, rank = rank, truncated = truncated, members = members,
    bits = bits, unqualified = unqualified, tail_at = tail_at, tail = cmsgpack.unpack(sub(value, tail_at + 1)),
    parts = {[0] = read_part(value, at)},
  }
end

local function get_part(key, bucket, number)
  local part = bucket.parts[number]
  if not part then
    local value = get(part_key(key, number))
    part = value and read_part(value, 1) or new_part()
    bucket.parts[number] = part
  end
  return part
end

-- Writes what has changed.
local function write_bucket(key, bucket)
  for number, part in pairs(bucket.parts) do
    if number > 0 then
      local name = part_key(key, number)
      if part.ends then
        redis.call('SET', name, pack_whole(part))
      else
        redis.call('SETRANGE', name, 0, pack_head(part))
      end
      values[name] = nil
    end
  end
  local first, packed = bucket.parts[0], nil
  local whole = bucket.whole or first.ends
  if whole then
    packed = pack_whole(first)
    bucket.tail_at = SUMMARY_BYTES + #packed
  else
    packed = pack_head(first)
  end
  local summary = struct_pack(SUMMARY, bucket.alerts, bucket.first, bucket.last, bucket.late, bucket.rank,
    bucket.truncated, bucket.members, bucket.bits, bucket.unqualified, bucket.tail_at)
  if whole then
    redis.call('SET', key, summary .. packed .. cmsgpack.pack(bucket.tail))
  else
    redis.call('SETRANGE', key, 0, summary .. packed)
  end
  values[key] = nil
end

-- Merges the summary of a row into that of the bucket.
local function merge_summaries(bucket, row)
  local rank, severity, old_severity = row[ROW_RANK], row[ROW_SEVERITY], bucket.tail[TAIL_SEVERITY]
  if rank < bucket.rank or (rank == bucket.rank and severity ~= old_severity) then
    bucket.tail[TAIL_SEVERITY] = rank < bucket.rank and severity or lower(severity, old_severity)
    bucket.rank, bucket.whole = rank, true
  end
  bucket.alerts, bucket.late = bucket.alerts + row[ROW_ALERTS], bucket.late + row[ROW_LATE]
  if row[ROW_FIRST] < bucket.first then
    bucket.first = row[ROW_FIRST]
  end
  if row[ROW_LAST] > bucket.last then
    bucket.last = row[ROW_LAST]
  end
end

-- Moves members to the parts that a bucket has from now on.
local function split(key, bucket, bits)
  local parts, count = {}, 2 ^ bits
  for number = 0, count - 1 do
    parts[number] = new_part()
  end
  for number = 0, 2 ^ bucket.bits - 1 do
    local part = read_part(pack_whole(get_part(key, bucket, number)), 1)
    for i = 1, part.count do
      local alerts, time = read_member(part, i)
      local at, length = find_text(part, i)
      add_member(parts[part_of(part.fingerprints, i, count)], get_fingerprint(part.fingerprints, i), alerts, time,
        sub(part.value, at, at + length - 1))
    end
  end
  bucket.parts, bucket.bits = parts, bits
end

-- Number in the bucket of each of a row's prefixes, or nil.
local function number_prefixes(prefixes, tail)
  local known, numbers = {}, {}
  for i = TAIL_PREFIXES + 1, #tail do
    known[tail[i]] = i - TAIL_PREFIXES
  end
  for index, prefix in ipairs(prefixes) do
    numbers[index] = known[prefix]
  end
  return numbers
end

-- Folds those of a row's members that the bucket has; returns the indexes of the others.
local function fold_known(key, row, bucket, prefixes, prefix_numbers)
  local fingerprints, numbers, rests, tail = row[ROW_FINGERPRINTS], row[ROW_NUMBERS], row[ROW_RESTS], bucket.tail
  local lists, unknown = row.bits == bucket.bits and row.lists or by_part(fingerprints, bucket.bits), {}
  for number, list in pairs(lists) do
    local part = get_part(key, bucket, number)
    local known = part.fingerprints
    for at = 1, list and #list or row[ROW_MEMBERS] do
      local i = list and list[at] or at
      local fingerprint = sub(fingerprints, (i - 1) * FINGERPRINT_BYTES + 1, i * FINGERPRINT_BYTES)
      local found = find(known, fingerprint, 1, true)
      while found and found % FINGERPRINT_BYTES ~= 1 do
        found = find(known, fingerprint, found + 1, true)
      end
      if not found then
        unknown[#unknown + 1] = i
      else
        local place = (found - 1) / FINGERPRINT_BYTES + 1
        local count, time, prefix, length, to = struct_unpack(ROW_MEMBER, numbers, (i - 1) * ROW_MEMBER_BYTES + 1)
        merge_member(part, place, count, time)
        local rest = sub(rests, to - length + 1, to)
        local new_prefix = prefix > 0 and prefix_numbers[prefix] or 0
        if new_prefix == 0 and prefix > 0 then
          rest = prefixes[prefix] .. rest
        end
        local text, text_length = find_text(part, place)
        local old_prefix = byte(part.value, text)
        if old_prefix ~= new_prefix or text_length ~= #rest + 1 or find(part.value, rest, text + 1, true) ~= text + 1 then
          local old = sub(part.value, text + 1, text + text_length - 1)
          local new = new_prefix > 0 and tail[TAIL_PREFIXES + new_prefix] .. rest or rest
          old = old_prefix > 0 and tail[TAIL_PREFIXES + old_prefix] .. old or old
          if new ~= old and lower(new, old) == new then
            replace_text(part, place, char(new_prefix) .. rest)
          end
        end
      end
    end
  end
  return unknown
end

-- Makes members of those of a row that the bucket does not have, or only counts them. A prefix that several need gets a
-- number while the bucket has few.
local function fold_unknown(key, row, bucket, prefixes, prefix_numbers, unknown)
  local fingerprints, numbers, tail = row[ROW_FINGERPRINTS], row[ROW_NUMBERS], bucket.tail
  local added = track_new and math.min(#unknown, math.max(0, max_fingerprints - bucket.members)) or 0
  bucket.members = bucket.members + added
  local bits = bits_of(bucket.members)
  if bits > bucket.bits then
    split(key, bucket, bits)
  end
  local uses, parts = {}, 2 ^ bucket.bits
  for at = 1, added do
    local prefix = select(3, struct_unpack(ROW_MEMBER, numbers, (unknown[at] - 1) * ROW_MEMBER_BYTES + 1))
    uses[prefix] = (uses[prefix] or 0) + 1
  end
  for at = 1, #unknown do
    local i = unknown[at]
    local count, time, prefix, length, to = struct_unpack(ROW_MEMBER, numbers, (i - 1) * ROW_MEMBER_BYTES + 1)
    if at <= added then
      local rest, number = sub(row[ROW_RESTS], to - length + 1, to), prefix > 0 and prefix_numbers[prefix] or 0
      if number == 0 and prefix > 0 then
        if uses[prefix] > 1 and #tail - TAIL_PREFIXES < MAX_PREFIXES then
          tail[#tail + 1] = prefixes[prefix]
          number, bucket.whole = #tail - TAIL_PREFIXES, true
          prefix_numbers[prefix] = number
        else
          rest = prefixes[prefix] .. rest
        end
      end
      local part = get_part(key, bucket, parts == 1 and 0 or part_of(fingerprints, i, parts))
      add_member(part, get_fingerprint(fingerprints, i), count, time, char(number) .. rest)
    else
      local flags = count % FLAG_VALUES
      bucket.truncated = 1
      if flags < QUALIFIED then
        bucket.unqualified = bucket.unqualified + (count - flags) / FLAG_VALUES
      end
    end
  end
end

-- Folds a row's members, and writes the bucket, in whose summary the row is merged already.
local function fold_members(key, row, bucket)
  local prefixes = cmsgpack.unpack(row[ROW_PREFIXES])
  local prefix_numbers = number_prefixes(prefixes, bucket.tail)
  local unknown = fold_known(key, row, bucket, prefixes, prefix_numbers)
  if #unknown > 0 then
    fold_unknown(key, row, bucket, prefixes, prefix_numbers, unknown)
  end
  write_bucket(key, bucket)
end

