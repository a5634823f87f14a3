/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "store/frames.h"

#include <string.h>

#define BLOCK 512
#define END_BYTES 1024
#define MIB ((uint64_t)1024 * 1024)

/* An entry as it stands in the plan, and a number that changes with its contents. */
struct entry {
    uint64_t hash;
    uint64_t header_bytes;
    uint64_t slot_bytes;
    uint64_t version;
};

struct tree {
    struct entry *entries;
    size_t count;
};

static uint64_t seed = 1;

static uint64_t any(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 33) % below;
}

static uint64_t any_hash(void)
{
    uint64_t number = any(UINT32_MAX) << 31 | any(UINT32_MAX);
    return frames_hash((const char *)&number, sizeof(number));
}

static uint64_t blocks(uint64_t bytes)
{
    return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

/* Most files are small, some are not, few are large, and some have many attributes. */
static struct entry any_entry(void)
{
    uint64_t kind = any(1000);
    uint64_t data = kind < 200   ? 0
                    : kind < 900 ? any(16 * 1024)
                    : kind < 985 ? any(300 * 1024)
                    : kind < 997 ? any(2 * MIB)
                                 : any(20 * MIB);
    uint64_t header = any(400) ? BLOCK * (1 + 2 * any(2)) : blocks(any(1000000) + 1);
    return (struct entry){any_hash(), header, header + blocks(data), any_hash()};
}

static void make_small(struct entry *entry)
{
    entry->header_bytes = BLOCK;
    entry->slot_bytes = BLOCK + blocks(any(16 * 1024));
}

static struct tree any_tree(size_t count)
{
    struct tree tree = {.entries = calloc(count, sizeof(struct entry)), .count = count};
    assert_non_null(tree.entries);
    for (size_t i = 0; i < count; i++)
        tree.entries[i] = any_entry();
    return tree;
}

static struct frames *plan(const struct tree *tree)
{
    struct frames *frames = frames_new();
    assert_non_null(frames);
    for (size_t i = 0; i < tree->count; i++)
        assert_int_equal(frames_add(frames, tree->entries[i].hash, tree->entries[i].header_bytes,
                                    tree->entries[i].slot_bytes),
                         0);
    assert_int_equal(frames_finish(frames, END_BYTES), 0);
    return frames;
}

static uint64_t tree_bytes(const struct tree *tree)
{
    uint64_t bytes = END_BYTES;
    for (size_t i = 0; i < tree->count; i++)
        bytes += tree->entries[i].slot_bytes;
    return bytes;
}

static void check_find(const struct frames *frames, const struct frames_frame *frame)
{
    const uint64_t offsets[] = {frame->offset, frame->offset + frame->bytes / 2,
                                frame->offset + frame->bytes - 1};
    for (size_t i = 0; i < 3; i++) {
        struct frames_frame found;
        assert_int_equal(frames_find(frames, offsets[i], &found), 1);
        assert_int_equal(found.index, frame->index);
        assert_int_equal(found.offset, frame->offset);
        assert_int_equal(found.bytes, frame->bytes);
    }
}

/* Without gaps, none too long, and found by each offset. */
static void check_plan(const struct frames *frames, const struct tree *tree)
{
    uint64_t offset = 0;
    struct frames_frame frame;
    for (uint64_t i = 0; i < frames_count(frames); i++) {
        frames_frame(frames, i, &frame);
        assert_int_equal(frame.index, i);
        assert_int_equal(frame.offset, offset);
        assert_in_range(frame.bytes, 1, FRAMES_MAX_BYTES);
        check_find(frames, &frame);
        offset += frame.bytes;
    }
    assert_int_equal(offset, tree_bytes(tree));
    assert_int_equal(frames_find(frames, offset, &frame), 0);
}

static void random_trees(void **state)
{
    (void)state;
    for (size_t round = 0; round < 60; round++) {
        struct tree tree = any_tree(any(4000));
        struct frames *frames cleanup_frames = plan(&tree);
        check_plan(frames, &tree);
        free(tree.entries);
    }
}

static void small_entries_come_in_groups(void **state)
{
    (void)state;
    struct tree tree = any_tree(60000);
    for (size_t i = 0; i < tree.count; i++)
        make_small(&tree.entries[i]);
    struct frames *frames cleanup_frames = plan(&tree);
    check_plan(frames, &tree);
    size_t entry = 0;
    uint64_t at = 0;
    struct frames_frame frame;
    for (uint64_t i = 0; i < frames_count(frames); i++) {
        frames_frame(frames, i, &frame);
        assert_in_range(frame.bytes, FRAMES_MIN_BYTES, FRAMES_MAX_BYTES);
        for (; at < frame.offset; entry++)
            at += tree.entries[entry].slot_bytes;
        assert_int_equal(at, frame.offset); /* no entry is cut */
    }
    uint64_t average = tree_bytes(&tree) / frames_count(frames);
    assert_in_range(average, FRAMES_GROUP_BYTES * 8 / 10, FRAMES_GROUP_BYTES * 12 / 10);
    free(tree.entries);
}

/* Whoever chooses the names gets no frame out of bounds. */
static void hostile_hashes(void **state)
{
    (void)state;
    for (int way = 0; way < 5; way++) {
        struct tree tree = any_tree(20000);
        for (size_t i = 0; i < tree.count; i++) {
            struct entry *entry = &tree.entries[i];
            entry->hash = (const uint64_t[]){7, i, tree.count - i, i % 3000, 3000 - i % 3000}[way];
            entry->header_bytes = BLOCK;
            entry->slot_bytes =
                i % 5000 ? BLOCK * (1 + any(8)) : FRAMES_GROUP_BYTES - any(3) * BLOCK;
        }
        struct frames *frames cleanup_frames = plan(&tree);
        check_plan(frames, &tree);
        struct frames_frame frame;
        for (uint64_t i = 0; i < frames_count(frames); i++) {
            frames_frame(frames, i, &frame);
            assert_true(frame.bytes >= FRAMES_MIN_BYTES);
        }
        free(tree.entries);
    }
}

static void a_large_entry_is_cut_from_its_own_start(void **state)
{
    (void)state;
    const struct entry large = {1, 3 * BLOCK, 3 * BLOCK + 5 * MIB + 300 * 1024, 0};
    for (uint64_t before = 0; before < 5; before++) {
        struct entry entries[] = {
            {2, BLOCK, BLOCK + before * 500 * BLOCK, 0}, large, {3, 0, BLOCK, 0}};
        struct tree tree = {entries, 3};
        struct frames *frames cleanup_frames = plan(&tree);
        check_plan(frames, &tree);
        assert_int_equal(frames_count(frames), 1 + 6);
        struct frames_frame frame;
        for (uint64_t i = 0; i < 6; i++) {
            frames_frame(frames, 1 + i, &frame);
            uint64_t cut = i == 0 ? 0 : large.header_bytes + i * MIB;
            assert_int_equal(frame.offset - entries[0].slot_bytes, cut);
        }
        /* the rest of it, what is too little for a frame, the end */
        assert_int_equal(frame.bytes, 300 * 1024 + BLOCK + END_BYTES);
    }
}

static void the_rest_of_a_large_entry_is_no_frame_if_small(void **state)
{
    (void)state;
    const struct {
        uint64_t data;
        uint64_t frames;
    } cases[] = {
        {MIB, 1},
        {MIB + BLOCK, 1},
        {2 * MIB, 2},
        {2 * MIB + FRAMES_MIN_BYTES - BLOCK, 2},
        {2 * MIB + FRAMES_MIN_BYTES, 3},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct entry entry = {1, BLOCK, BLOCK + cases[i].data, 0};
        struct tree tree = {&entry, 1};
        struct frames *frames cleanup_frames = plan(&tree);
        check_plan(frames, &tree);
        assert_int_equal(frames_count(frames), cases[i].frames);
    }
}

/* A last group that the end makes too much is cut as well. */
static void a_group_that_is_just_full(void **state)
{
    (void)state;
    for (uint64_t less = 0; less < 4; less++) {
        struct tree tree = any_tree(64);
        for (size_t i = 0; i < tree.count; i++) {
            tree.entries[i].header_bytes = BLOCK;
            tree.entries[i].slot_bytes = 2 * FRAMES_GROUP_BYTES / tree.count;
        }
        tree.entries[7].slot_bytes -= less * BLOCK;
        struct frames *frames cleanup_frames = plan(&tree);
        check_plan(frames, &tree);
        assert_int_equal(frames_count(frames), less < 2 ? 2 : 1);
        free(tree.entries);
    }
}

static void unusual_headers(void **state)
{
    (void)state;
    for (uint64_t header = BLOCK; header <= MIB; header += 61 * BLOCK) {
        struct entry entries[] = {{1, header, header + MIB + BLOCK, 0},
                                  {2, header, header + 3 * MIB - BLOCK, 0},
                                  {3, header, header, 0},
                                  {4, header, header + 3 * MIB + 255 * 1024, 0},
                                  {5, BLOCK, 255 * 1024, 0},
                                  {6, header, header + MIB + 255 * 1024, 0}};
        struct tree tree = {entries, 6};
        struct frames *frames cleanup_frames = plan(&tree);
        check_plan(frames, &tree);
    }
}

static void an_entry_of_exabytes_costs_nothing(void **state)
{
    (void)state;
    struct frames *frames cleanup_frames = frames_new();
    const uint64_t most = INT64_MAX / BLOCK * BLOCK;
    assert_int_equal(frames_add(frames, 1, BLOCK, BLOCK), 0);
    assert_int_equal(frames_add(frames, 2, BLOCK, most), -EOVERFLOW);
    struct frames *other cleanup_frames = frames_new();
    assert_int_equal(frames_add(other, 2, BLOCK, most - BLOCK), 0);
    assert_int_equal(frames_finish(other, BLOCK), 0);
    struct frames_frame frame;
    assert_int_equal(frames_find(other, most / 2, &frame), 1);
    assert_int_equal(frame.bytes, MIB);
    assert_int_equal((frame.offset - BLOCK) % MIB, 0);
    assert_in_range(most / 2 - frame.offset, 0, MIB - 1);
    check_find(other, &frame);
    frames_frame(other, frames_count(other) - 1, &frame);
    assert_int_equal(frame.offset + frame.bytes, most);
}

static void nothing_and_next_to_nothing(void **state)
{
    (void)state;
    struct frames *none cleanup_frames = frames_new();
    assert_int_equal(frames_finish(none, 0), 0);
    assert_int_equal(frames_count(none), 0);
    struct frames_frame frame;
    assert_int_equal(frames_find(none, 0, &frame), 0);
    struct tree tree = {NULL, 0};
    struct frames *end cleanup_frames = plan(&tree);
    assert_int_equal(frames_count(end), 1);
    check_plan(end, &tree);
}

/* ---- what stays when something changes --------------------------------------------- */

/* Of each frame one number that tells what is in it: which entries, which parts. */
static uint64_t *contents_of(const struct frames *frames, const struct tree *tree)
{
    uint64_t count = frames_count(frames);
    uint64_t *contents = calloc(count, sizeof(*contents));
    assert_non_null(contents);
    size_t entry = 0;
    uint64_t start = 0; /* of the entry */
    struct frames_frame frame;
    for (uint64_t i = 0; i < count; i++) {
        frames_frame(frames, i, &frame);
        uint64_t at = frame.offset;
        while (at < frame.offset + frame.bytes && entry < tree->count) {
            uint64_t end = start + tree->entries[entry].slot_bytes;
            uint64_t to = end < frame.offset + frame.bytes ? end : frame.offset + frame.bytes;
            uint64_t part[] = {contents[i], tree->entries[entry].version, at - start, to - at};
            contents[i] = frames_hash((const char *)part, sizeof(part));
            at = to;
            if (at == end) {
                start = end;
                entry++;
            }
        }
    }
    return contents;
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* How many frames of the new tree are not in the old one. */
static size_t changed(const struct tree *old_tree, const struct tree *new_tree)
{
    struct frames *old_frames cleanup_frames = plan(old_tree);
    struct frames *new_frames cleanup_frames = plan(new_tree);
    cleanup_free uint64_t *old_contents = contents_of(old_frames, old_tree);
    cleanup_free uint64_t *new_contents = contents_of(new_frames, new_tree);
    size_t old_count = frames_count(old_frames);
    qsort(old_contents, old_count, sizeof(uint64_t), compare);
    size_t count = 0;
    for (uint64_t i = 0; i < frames_count(new_frames); i++)
        count += !bsearch(&new_contents[i], old_contents, old_count, sizeof(uint64_t), compare);
    return count;
}

/* A copy with one entry put in, taken out, grown or shrunk, or written to; and how
 * many whole frames that entry had and has. */
static struct tree edited(const struct tree *tree, size_t *ret_own)
{
    enum { PUT_IN, TAKEN_OUT, RESIZED, WRITTEN_TO } kind = (int)any(4);
    size_t at = any(tree->count);
    struct tree copy = {calloc(tree->count + 1, sizeof(struct entry)), tree->count};
    assert_non_null(copy.entries);
    const struct entry *old = &tree->entries[at];
    struct entry new = any_entry();
    if (kind == RESIZED)
        new.hash = old->hash;
    if (kind == WRITTEN_TO)
        new = (struct entry){old->hash, old->header_bytes, old->slot_bytes, any_hash()};
    size_t count = 0;
    for (size_t i = 0; i < tree->count; i++) {
        if (i == at && kind != TAKEN_OUT)
            copy.entries[count++] = new;
        if (i != at || kind == PUT_IN)
            copy.entries[count++] = tree->entries[i];
    }
    copy.count = count;
    *ret_own = (old->slot_bytes > new.slot_bytes ? old->slot_bytes : new.slot_bytes) / MIB;
    return copy;
}

/* Beside the entry's own frames: its group, and those until all is as before. */
#define NEIGHBOURS_MAX 6

static void one_edit_changes_few_frames(void **state)
{
    (void)state;
    struct tree tree = any_tree(3000);
    size_t total = 0;
    const size_t rounds = 400;
    for (size_t i = 0; i < rounds; i++) {
        size_t own;
        struct tree other = edited(&tree, &own);
        size_t count = changed(&tree, &other);
        assert_true(count <= own + NEIGHBOURS_MAX);
        total += count < own ? 0 : count - own;
        free(tree.entries);
        tree = other;
    }
    assert_true(total <= 2 * rounds);
    free(tree.entries);
}

static void one_edit_among_small_ones(void **state)
{
    (void)state;
    struct tree tree = any_tree(5000);
    for (size_t i = 0; i < tree.count; i++)
        make_small(&tree.entries[i]);
    size_t total = 0;
    const size_t rounds = 300;
    for (size_t i = 0; i < rounds; i++) {
        size_t own;
        struct tree other = edited(&tree, &own);
        for (size_t j = 0; j < other.count; j++)
            if (other.entries[j].slot_bytes > 17 * 1024)
                make_small(&other.entries[j]);
        size_t count = changed(&tree, &other);
        assert_true(count <= NEIGHBOURS_MAX);
        total += count;
        free(tree.entries);
        tree = other;
    }
    assert_in_range(total, rounds / 2, rounds * 3 / 2);
    free(tree.entries);
}

static void what_is_put_first_moves_all_and_changes_little(void **state)
{
    (void)state;
    struct tree tree = any_tree(20000);
    struct tree other = {calloc(tree.count + 1, sizeof(struct entry)), tree.count + 1};
    assert_non_null(other.entries);
    other.entries[0] = tree.entries[0];
    other.entries[1] = (struct entry){any_hash(), BLOCK, BLOCK * 7, any_hash()};
    memcpy(other.entries + 2, tree.entries + 1, (tree.count - 1) * sizeof(struct entry));
    assert_in_range(changed(&tree, &other), 1, 3);
    free(tree.entries);
    free(other.entries);
}

/* However far two trees are out of step, they soon fall into it again. */
static void trees_that_begin_differently(void **state)
{
    (void)state;
    struct tree tree = any_tree(3000);
    for (size_t i = 0; i < tree.count; i++)
        make_small(&tree.entries[i]);
    size_t total = 0;
    const size_t rounds = 200;
    for (size_t i = 0; i < rounds; i++) {
        struct tree later = {tree.entries + 200 + any(200), 2500};
        size_t count = changed(&tree, &later) - 1; /* its end is not the other's */
        assert_true(count <= NEIGHBOURS_MAX);
        total += count;
    }
    assert_true(total <= rounds * 3 / 2);
    free(tree.entries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_trees),
        cmocka_unit_test(small_entries_come_in_groups),
        cmocka_unit_test(hostile_hashes),
        cmocka_unit_test(a_large_entry_is_cut_from_its_own_start),
        cmocka_unit_test(the_rest_of_a_large_entry_is_no_frame_if_small),
        cmocka_unit_test(a_group_that_is_just_full),
        cmocka_unit_test(unusual_headers),
        cmocka_unit_test(an_entry_of_exabytes_costs_nothing),
        cmocka_unit_test(nothing_and_next_to_nothing),
        cmocka_unit_test(one_edit_changes_few_frames),
        cmocka_unit_test(one_edit_among_small_ones),
        cmocka_unit_test(trees_that_begin_differently),
        cmocka_unit_test(what_is_put_first_moves_all_and_changes_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
