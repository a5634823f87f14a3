/* SPDX-License-Identifier: MIT */
/*
 * The plan is a list of parts.  A group is a part of one frame; a large entry is a
 * part of many, counted and not listed, so that a file that says it has exabytes
 * costs no more than another.
 *
 * Small entries come in sections, which end at the next large entry or at the end.
 * A group is only cut once it is known to go on beyond GROUP_MAX_BYTES, and then at
 * least FRAMES_MIN_BYTES before that: so what follows is no less.
 */
#include "store/frames.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

#define STREAM_MAX_BYTES ((uint64_t)INT64_MAX)
#define END_MAX_BYTES (64 * 1024)
#define GROUP_MAX_BYTES (2 * FRAMES_GROUP_BYTES)

_Static_assert(GROUP_MAX_BYTES - 2 * FRAMES_MIN_BYTES >= FRAMES_GROUP_BYTES,
               "where a group has to be cut, an entry begins");
/* What a large entry's last frame may come to: a header, a step and what was too
 * little for one of its own, small entries, the end. */
_Static_assert(GROUP_MAX_BYTES + END_MAX_BYTES <= FRAMES_MAX_BYTES, "a group is one frame");
_Static_assert(3 * FRAMES_MIN_BYTES + FRAMES_STEP_BYTES + END_MAX_BYTES <= FRAMES_MAX_BYTES,
               "the end of a large entry is one frame");

/* Of one or more frames; up to the next part. */
struct part {
    uint64_t offset;
    uint64_t first_index;
    uint64_t first_bytes; /* of its first frame, where it has more than one */
};

struct point {
    uint64_t hash;
    uint64_t offset;
};

struct frames {
    struct part *parts;
    size_t part_count;
    size_t part_room;
    uint64_t next_index;
    uint64_t end; /* of what was added */
    bool finished;
    /* Of the section that is being filled: */
    bool in_section;
    bool is_listed;       /* its first group is a part; else it may go with what is before */
    uint64_t group;       /* where the last group begins */
    struct point *points; /* the entries in it */
    size_t point_count;
    size_t point_room;
};

struct frames *frames_new(void)
{
    return calloc(1, sizeof(struct frames));
}

void frames_free(struct frames *frames)
{
    if (!frames)
        return;
    free(frames->points);
    free(frames->parts);
    free(frames);
}

uint64_t frames_hash(const char *path, size_t bytes)
{
    return XXH64(path, bytes, 0);
}

/* Room for one more; *items may move. */
static int make_room(void *items, size_t *room, size_t count, size_t item_bytes)
{
    if (count < *room)
        return 0;
    size_t more = *room + *room / 2 + 64;
    void *moved = reallocarray(*(void **)items, more, item_bytes);
    if (!moved)
        return -ENOMEM;
    *(void **)items = moved;
    *room = more;
    return 0;
}

/* A new part of so many frames, which begins at offset. */
static int add_part(struct frames *frames, uint64_t offset, uint64_t count, uint64_t first_bytes)
{
    int r = make_room(&frames->parts, &frames->part_room, frames->part_count, sizeof(struct part));
    if (r < 0)
        return r;
    frames->parts[frames->part_count++] = (struct part){offset, frames->next_index, first_bytes};
    frames->next_index += count;
    return 0;
}

/* ---- small entries --------------------------------------------------------------- */

/* Where the next group begins, of which nothing is added yet but points. */
static size_t best_cut(const struct frames *frames)
{
    uint64_t from = frames->group + FRAMES_MIN_BYTES;
    uint64_t to = frames->group + GROUP_MAX_BYTES - FRAMES_MIN_BYTES;
    const struct point *points = frames->points;
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < frames->point_count && points[i].offset <= to; i++)
        if (points[i].offset >= from && (best == SIZE_MAX || points[i].hash < points[best].hash))
            best = i;
    assert(best != SIZE_MAX); /* no entry is longer than from there to here */
    return best;
}

static int begin_group(struct frames *frames, size_t at)
{
    frames->group = frames->points[at].offset;
    frames->point_count -= at;
    memmove(frames->points, frames->points + at, frames->point_count * sizeof(struct point));
    return add_part(frames, frames->group, 1, 0);
}

/* Lists the groups up to the one that what is added so far does not fill. */
static int list_groups(struct frames *frames)
{
    int r = 0;
    if (!frames->is_listed && frames->end - frames->group >= FRAMES_MIN_BYTES) {
        frames->is_listed = true;
        r = begin_group(frames, 0);
    }
    while (r == 0 && frames->end - frames->group > GROUP_MAX_BYTES)
        r = begin_group(frames, best_cut(frames));
    return r;
}

static int begin_section(struct frames *frames)
{
    frames->in_section = true;
    frames->group = frames->end;
    frames->point_count = 0;
    frames->is_listed = frames->part_count == 0;
    return frames->is_listed ? add_part(frames, frames->end, 1, 0) : 0;
}

static int add_small(struct frames *frames, uint64_t hash, uint64_t bytes)
{
    int r = frames->in_section ? 0 : begin_section(frames);
    if (r == 0)
        r = make_room(&frames->points, &frames->point_room, frames->point_count,
                      sizeof(struct point));
    if (r < 0)
        return r;
    frames->points[frames->point_count++] = (struct point){hash, frames->end};
    frames->end += bytes;
    return list_groups(frames);
}

/* ---- large entries ---------------------------------------------------------------- */

/* How many frames; what is left for the last one is no less than a group may be. */
static uint64_t step_count(uint64_t data_bytes)
{
    uint64_t steps = data_bytes / FRAMES_STEP_BYTES;
    bool is_rest_enough = data_bytes % FRAMES_STEP_BYTES >= FRAMES_MIN_BYTES;
    return steps + (is_rest_enough || steps == 0);
}

static int add_large(struct frames *frames, uint64_t header_bytes, uint64_t bytes)
{
    int r = 0;
    uint64_t offset = frames->end;
    frames->end += bytes;
    frames->in_section = false;
    /* With a step of data an unusual header would be too much for one frame. */
    if (header_bytes > FRAMES_MIN_BYTES) {
        r = add_part(frames, offset, 1, 0);
        offset += header_bytes;
        bytes -= header_bytes;
        header_bytes = 0;
    }
    if (r == 0 && bytes > 0)
        r = add_part(frames, offset, step_count(bytes - header_bytes),
                     header_bytes + FRAMES_STEP_BYTES);
    return r;
}

/* ---- all of it --------------------------------------------------------------------- */

int frames_add(struct frames *frames, uint64_t hash, uint64_t header_bytes, uint64_t slot_bytes)
{
    assert(!frames->finished);
    assert(header_bytes <= slot_bytes && header_bytes <= FRAMES_STEP_BYTES);
    if (slot_bytes > STREAM_MAX_BYTES - frames->end)
        return -EOVERFLOW;
    if (slot_bytes == 0)
        return 0;
    if (slot_bytes > FRAMES_GROUP_BYTES)
        return add_large(frames, header_bytes, slot_bytes);
    return add_small(frames, hash, slot_bytes);
}

int frames_finish(struct frames *frames, uint64_t end_bytes)
{
    assert(!frames->finished && end_bytes <= END_MAX_BYTES);
    if (end_bytes > STREAM_MAX_BYTES - frames->end)
        return -EOVERFLOW;
    int r = 0;
    if (frames->part_count == 0 && end_bytes > 0)
        r = add_part(frames, 0, 1, 0);
    frames->end += end_bytes;
    if (r == 0 && frames->in_section)
        r = list_groups(frames);
    free(frames->points);
    frames->points = NULL;
    frames->finished = true;
    return r;
}

uint64_t frames_count(const struct frames *frames)
{
    assert(frames->finished);
    return frames->next_index;
}

/* Where a part's frame of that index begins; one past its last is its end. */
static uint64_t frame_offset(const struct frames *frames, size_t part, uint64_t index)
{
    const struct part *at = &frames->parts[part];
    bool is_last = part + 1 == frames->part_count;
    if (index == (is_last ? frames->next_index : at[1].first_index))
        return is_last ? frames->end : at[1].offset;
    uint64_t step = index - at->first_index;
    return step == 0 ? at->offset : at->offset + at->first_bytes + (step - 1) * FRAMES_STEP_BYTES;
}

static void fill_in(const struct frames *frames, size_t part, uint64_t index,
                    struct frames_frame *ret_frame)
{
    uint64_t offset = frame_offset(frames, part, index);
    *ret_frame = (struct frames_frame){
        .index = index,
        .offset = offset,
        .bytes = frame_offset(frames, part, index + 1) - offset,
    };
}

void frames_frame(const struct frames *frames, uint64_t index, struct frames_frame *ret_frame)
{
    assert(index < frames_count(frames));
    size_t low = 0; /* its first frame is index or before */
    size_t high = frames->part_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (frames->parts[middle].first_index <= index)
            low = middle;
        else
            high = middle;
    }
    fill_in(frames, low, index, ret_frame);
}

int frames_find(const struct frames *frames, uint64_t offset, struct frames_frame *ret_frame)
{
    assert(frames->finished);
    if (offset >= frames->end)
        return 0;
    size_t low = 0; /* begins at offset or before */
    size_t high = frames->part_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (frames->parts[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    const struct part *part = &frames->parts[low];
    uint64_t count = (low + 1 < frames->part_count ? part[1].first_index : frames->next_index) -
                     part->first_index;
    uint64_t step = 0;
    if (count > 1 && offset - part->offset >= part->first_bytes)
        step = (offset - part->offset - part->first_bytes) / FRAMES_STEP_BYTES + 1;
    step = step < count ? step : count - 1;
    fill_in(frames, low, part->first_index + step, ret_frame);
    return 1;
}
