/* SPDX-License-Identifier: MIT */
/* An archive of files that change while it is read, that cannot be read, and how they are
 * opened. */
#include "check.h"

#include "test-vtar.h"

/* ---- files that change -------------------------------------------------------------------------
 */

/* An archive before and after something happened. */
struct change {
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    struct buf before;
    struct buf after;
};

static void change_begin(struct change *change)
{
    make_plain_tree("tree");
    shell("cd tree && mkdir v && for i in 1 2 3 4 5 6 7 8 9; do"
          " head -c 20000 /dev/urandom > v/$i; touch -d @1000000000 v/$i; done");
    world_init(&change->world, "tree");
    change->layout = layout_of(&change->world);
    change->vtar = vtar_of(&change->world, change->layout);
    read_all(change->vtar, change->layout, 131072, &change->before);
    vtar_free(change->vtar);
    change->vtar = vtar_of(&change->world, change->layout);
}

/* Reads it again: the same, and well-formed. */
static void change_read(struct change *change, uint64_t members)
{
    read_all(change->vtar, change->layout, 10000, &change->after);
    struct buf again cleanup_buf;
    read_all(change->vtar, change->layout, 131072, &again);
    assert_same(&again, &change->after);
    must_check_out(&change->after, members);
}

static void change_end(struct change *change)
{
    vtar_free(change->vtar);
    layout_free(change->layout);
    world_done(&change->world);
    buf_done(&change->before);
    buf_done(&change->after);
}

/* All but these slots is as it was before. */
static void assert_others_unchanged(const struct change *change, const char *const *paths)
{
    for (; *paths; paths++) {
        struct layout_slot slot = slot_of(change->layout, *paths);
        memcpy(change->before.data + slot.offset, change->after.data + slot.offset,
               slot.slot_bytes);
    }
    assert_same(&change->after, &change->before);
}

/* From a place in the file on there are zeros; before, and its headers, what was there. */
static void assert_cut(const struct change *change, const char *path, uint64_t bytes)
{
    struct layout_slot slot = slot_of(change->layout, path);
    const char *got = change->after.data + slot.offset;
    assert_memory_equal(got, change->before.data + slot.offset, slot.header_bytes + bytes);
    for (uint64_t i = slot.header_bytes + bytes; i < slot.slot_bytes; i++)
        assert_int_equal(got[i], 0);
}

static void assert_told(struct change *change, const char *wanted, uint64_t count)
{
    assert_string_equal(buf_string(&change->world.told), wanted);
    assert_int_equal(vtar_affected(change->vtar), count);
}

static void test_growing(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("echo more >> tree/v/3 && echo more >> tree/dir/file-512");
    change_read(&change, layout_count(change.layout));
    assert_same(&change.after, &change.before);
    assert_told(&change, "", 0);
    change_end(&change);
}

static void test_shrinking(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("truncate -s 12345 tree/v/3 && truncate -s 0 tree/v/4");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/3", 12345);
    assert_cut(&change, "v/4", 0);
    assert_others_unchanged(&change, (const char *const[]){"v/3", "v/4", NULL});
    assert_told(&change, "v/3 is shorter\nv/4 is shorter\n", 2);
    change_end(&change);
}

/* Every way to be gone.  After the root, each leaves the root once more. */
static void test_gone_before(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("cd tree/v && rm 1 && rm 2 && mkdir 2 && rm 3 && ln -s 4 3 && mv 5 6 &&"
          " rm 7 && mkfifo 7 && cp 8 8.new && mv 8.new 8 && rm ../after");
    change_read(&change, layout_count(change.layout));
    assert_others_unchanged(&change, (const char *const[]){"v/1", "v/2", "v/3", "v/5", "v/6", "v/7",
                                                           "v/8", "after", NULL});
    assert_told(&change,
                "after is gone\nv/1 is gone\nv/2 is gone\nv/3 is gone\nv/5 is gone\n"
                "v/6 is gone\nv/7 is gone\nv/8 is gone\n",
                8);
    struct buf listing cleanup_buf;
    buf_init(&listing, LISTING_MAX);
    assert_int_equal(list_bytes(change.after.data, change.after.len, &listing, NULL), 0);
    assert_null(strstr(buf_string(&listing), "762f31 ")); /* v/1 */
    assert_non_null(strstr(buf_string(&listing), "762f39 "));
    change_end(&change);
}

static void test_directory_in_the_way_changes(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("mv tree/v tree/w && ln -s w tree/v && rm -r tree/dir/below && touch tree/dir/below");
    change_read(&change, 0);
    assert_int_equal(vtar_affected(change.vtar), 10);
    change_end(&change);
}

static void test_gone_after_its_headers(unused_arg void **state)
{
    struct change change;
    char byte;
    change_begin(&change);
    must_read(change.vtar, &byte, 1, slot_of(change.layout, "v/2").offset + 5);
    size_t touched = 0;
    for (size_t i = 0; touched < VTAR_MAX_OPEN; i++) { /* so that it is not open any more */
        struct layout_slot other;
        layout_slot(change.layout, i, &other);
        if (other.has_data && other.ino != slot_of(change.layout, "v/2").ino) {
            must_read(change.vtar, &byte, 1, other.offset);
            touched++;
        }
    }
    shell("rm tree/v/2");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/2", 0);
    assert_others_unchanged(&change, (const char *const[]){"v/2", NULL});
    assert_told(&change, "v/2 is gone\n", 1);
    change_end(&change);
}

static void test_lost_between_reads(unused_arg void **state)
{
    struct change change;
    char bytes[20000];
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    must_read(change.vtar, bytes, 512, slot.offset);
    must_read(change.vtar, bytes, 20000, slot.offset + slot.header_bytes); /* and is closed */
    assert_int_equal(change.world.open_now, 0);
    shell("rm tree/v/2");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/2", 0);
    assert_others_unchanged(&change, (const char *const[]){"v/2", NULL});
    assert_told(&change, "v/2 is gone\n", 1);
    change_end(&change);
}

/* Told once, though two things happened to it. */
static void test_shorter_and_then_lost(unused_arg void **state)
{
    struct change change;
    char bytes[20000];
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    shell("truncate -s 100 tree/v/2");
    must_read(change.vtar, bytes, 20000, slot.offset + slot.header_bytes);
    shell("rm tree/v/2");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/2", 0);
    assert_told(&change, "v/2 is shorter\n", 1);
    change_end(&change);
}

/* An open file stays what it was, whatever happens to its name; until it is read to its end. */
static void test_gone_while_open(unused_arg void **state)
{
    struct change change;
    char byte;
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    must_read(change.vtar, &byte, 1, slot.offset);
    shell("rm tree/v/2");
    read_all(change.vtar, change.layout, 4096, &change.after);
    assert_same(&change.after, &change.before);
    assert_told(&change, "", 0);
    change_end(&change);
}

/* Also where the link is asked for first. */
static void test_links_to_what_is_gone(unused_arg void **state)
{
    for (int round = 0; round < 2; round++) {
        struct change change;
        char byte;
        change_begin(&change);
        shell("rm tree/dir/file-14000");
        struct layout_slot slot = slot_of(change.layout, "hard");
        assert_int_not_equal(slot.link_to, slot.index);
        if (round == 1)
            must_read(change.vtar, &byte, 1, slot.offset);
        change_read(&change, layout_count(change.layout));
        assert_others_unchanged(&change, (const char *const[]){"dir/file-14000", "hard", NULL});
        assert_told(&change, "dir/file-14000 is gone\nhard is a link to a file that is gone\n", 2);
        change_end(&change);
    }
}

/* Files of whole seconds have the smallest slots; there are too many for readers
 * that count what is not a member. */
static void test_thousands_gone(unused_arg void **state)
{
    struct world world;
    shell("rm -rf tree && mkdir -p tree/many && cd tree/many &&"
          " for i in $(seq 3000); do echo x > $i; done; ln 1 0; touch -d @1000000000 *;"
          " cd .. && head -c 3000000 /dev/zero > big && echo last > z");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    shell("rm -r tree/many/* tree/big tree/z && touch -d @1234567890.5 tree");
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 131072, &whole);
    assert_int_equal(vtar_affected(vtar), 3003);
    must_check_out(&whole, 0);
    spill("gone.tar", whole.data, whole.len);
    const char *programs[] = {"tar -xf", "bsdtar -xf", "busybox tar -xf", "python3 -m tarfile -e"};
    for (size_t i = 0; i < 4; i++) {
        shell("rm -rf x && mkdir x && cd x && %s ../gone.tar 2>&1", programs[i]);
        shell("test \"$(cd x && find)\" = \"$(printf '.\\n./many')\"");
    }
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

static void *read_own_quarter(void *data)
{
    struct reader *reader = data;
    size_t quarter = reader->got->len / 4 + 1;
    size_t at = quarter * reader->seed;
    size_t end = at + quarter < reader->got->len ? at + quarter : reader->got->len;
    for (; at < end && !reader->failed; at += 3000) {
        size_t len = end - at < 3000 ? end - at : 3000;
        if (vtar_read(reader->vtar, reader->got->data + at, len, at, NULL, NULL) != (ssize_t)len)
            reader->failed = "a read failed";
    }
    return NULL;
}

/* Threads share slots; what one has given out binds the others. */
static void test_vanishing_while_threads_read(unused_arg void **state)
{
    struct world world;
    shell("rm -rf tree && mkdir tree && cd tree &&"
          " for i in $(seq 200); do head -c 9000 /dev/zero | tr '\\0' x > $i; done");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf got cleanup_buf;
    struct reader readers[4];
    pthread_t threads[4];
    buf_init(&got, BYTES_MAX);
    assert_int_equal(buf_add_zeros(&got, layout_bytes(layout)), 0);
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){.vtar = vtar, .got = &got, .seed = i};
        assert_int_equal(pthread_create(&threads[i], NULL, read_own_quarter, &readers[i]), 0);
    }
    for (unsigned i = 200; i > 0; i--) {
        char name[16];
        (void)snprintf(name, sizeof(name), "%u", i);
        assert_int_equal(unlinkat(world.root, name, 0), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_null(readers[i].failed);
    }
    must_check_out(&got, 0);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* ---- errors -----------------------------------------------------------------------------------
 */

static void test_errors_are_told_and_pass(unused_arg void **state)
{
    struct change change;
    struct fail why = FAIL_INIT;
    static char bytes[1 << 20];
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    change.world.fails_path = "v/2";
    assert_int_equal(vtar_read(change.vtar, bytes, 512, slot.offset, NULL, &why), -EIO);
    assert_string_equal(why.text, "v/2: the disk is broken");
    assert_int_equal(vtar_read(change.vtar, bytes, 4096, slot.offset - 2048, NULL, NULL), -EIO);
    assert_int_equal(vtar_read(change.vtar, bytes, 2048, slot.offset - 2048, NULL, &why), 2048);
    change.world.fails_path = NULL;
    change.world.fails_pread = true;
    assert_int_equal(vtar_read(change.vtar, bytes, 4096, slot.offset, NULL, &why), -EIO);
    assert_string_equal(why.text, "the disk broke");
    assert_int_equal(vtar_read(change.vtar, bytes, 512, slot.offset, NULL, &why), 512);
    change.world.fails_pread = false;
    change_read(&change, layout_count(change.layout));
    assert_same(&change.after, &change.before);
    assert_told(&change, "", 0);
    change_end(&change);
}

/* ---- how the files are used ---------------------------------------------------------------------
 */

static void test_one_open_for_each_file(unused_arg void **state)
{
    struct world world;
    shell("rm -rf tree && mkdir tree && cd tree && head -c 4000000 /dev/zero > a &&"
          " for i in $(seq 500); do head -c 9000 /dev/zero > b$i; done");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 131072, &whole);
    assert_int_equal(world.opens, 501);
    assert_int_equal(world.open_now, 0); /* each was closed at its end */
    buf_done(&whole);
    size_t preads = world.preads;
    read_all(vtar, layout, SIZE_MAX, &whole);
    assert_int_equal(world.preads - preads, 501);
    vtar_free(vtar);
    assert_int_equal(world.opens, world.closes);
    layout_free(layout);
    world_done(&world);
}

/* Those left in the middle stay open, but not too many. */
static void test_open_files_are_kept(unused_arg void **state)
{
    struct world world;
    char byte;
    shell("rm -rf tree && mkdir tree && cd tree &&"
          " for i in $(seq 40); do head -c 9000 /dev/zero > $i; done");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct layout_slot slot;
    for (size_t i = 1; i <= 40; i++) {
        layout_slot(layout, i, &slot);
        must_read(vtar, &byte, 1, slot.offset + slot.header_bytes);
        layout_slot(layout, 1, &slot); /* is used all the time, and so stays open */
        must_read(vtar, &byte, 1, slot.offset + slot.header_bytes);
    }
    assert_int_equal(world.opens, 40);
    assert_int_equal(world.open_now, VTAR_MAX_OPEN);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* A tree of 500 files whose names have three digits, and who is told of them. */
static void announcing_begin(struct world *world, struct layout **ret_layout,
                             struct vtar **ret_vtar)
{
    shell("rm -rf tree && mkdir tree && cd tree && touch 000 &&"
          " for i in $(seq 101 600); do head -c 9000 /dev/zero > $i; done");
    world_init(world, "tree");
    world->expected_room = SIZE_MAX;
    *ret_layout = layout_of(world);
    struct vtar_source source = {.open = world_open,
                                 .pread = world_pread,
                                 .close = world_close,
                                 .affected = world_affected,
                                 .expect = world_expect,
                                 .data = world};
    *ret_vtar = vtar_new(*ret_layout, &source);
    assert_non_null(*ret_vtar);
}

static void announcing_end(struct world *world, struct layout *layout, struct vtar *vtar)
{
    vtar_free(vtar);
    layout_free(layout);
    world_done(world);
}

static void assert_announced(struct world *world, int from, int to)
{
    struct buf wanted cleanup_buf;
    buf_init(&wanted, LISTING_MAX);
    for (int i = from; i <= to; i++)
        assert_int_equal(buf_printf(&wanted, "%d\n", i), 0);
    assert_string_equal(buf_string(&world->expected), buf_string(&wanted));
}

/* Each once, in order, to one who reads in order; and well before they are read. */
static void test_files_are_announced(unused_arg void **state)
{
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    static char bytes[65536];
    announcing_begin(&world, &layout, &vtar);
    uint64_t at = 0;
    for (; at < layout_bytes(layout) / 4; at += sizeof(bytes))
        must_read(vtar, bytes, sizeof(bytes), at);
    assert_true(world.expected.len > 200 * 4 && world.expected.len < 300 * 4);
    for (; at < layout_bytes(layout); at += sizeof(bytes))
        assert_true(vtar_read(vtar, bytes, sizeof(bytes), at, NULL, NULL) > 0);
    assert_announced(&world, 101, 600);
    announcing_end(&world, layout, vtar);
}

/* Those for which there was no room are told later; those that are past, never. */
static void test_announcing_waits_for_room(unused_arg void **state)
{
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    static char bytes[20 * 10240];
    announcing_begin(&world, &layout, &vtar);
    world.expected_room = 30;
    must_read(vtar, bytes, sizeof(bytes), 0);
    assert_announced(&world, 101, 130);
    must_read(vtar, bytes, 10240, sizeof(bytes));
    assert_announced(&world, 101, 130);
    world.expected_room = 5;
    must_read(vtar, bytes, 10240, sizeof(bytes) + 10240);
    assert_announced(&world, 101, 135);
    struct layout_slot slot = slot_of(layout, "300");
    must_read(vtar, bytes, sizeof(bytes), slot.offset); /* within what may be one reader's order */
    world.expected_room = 1;
    buf_clear(&world.expected);
    must_read(vtar, bytes, 1, slot.offset + sizeof(bytes));
    assert_true(atoi(buf_string(&world.expected)) > 319);
    announcing_end(&world, layout, vtar);
}

/* Whoever jumps about is not announced anything. */
static void test_no_announcing_for_jumps(unused_arg void **state)
{
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    static char bytes[65536];
    announcing_begin(&world, &layout, &vtar);
    assert_true(layout_bytes(layout) > (uint64_t)4900 * 1024);
    for (int round = 0; round < 4; round++) {
        uint64_t end = layout_bytes(layout);
        must_read(vtar, bytes, sizeof(bytes), end - sizeof(bytes) - (uint64_t)round * 100000);
        assert_string_equal(buf_string(&world.expected), "");
        must_read(vtar, bytes, 10, (uint64_t)round * 100000);
        assert_string_equal(buf_string(&world.expected), "");
    }
    announcing_end(&world, layout, vtar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_shrinking),
        cmocka_unit_test(test_gone_before),
        cmocka_unit_test(test_directory_in_the_way_changes),
        cmocka_unit_test(test_gone_after_its_headers),
        cmocka_unit_test(test_lost_between_reads),
        cmocka_unit_test(test_shorter_and_then_lost),
        cmocka_unit_test(test_gone_while_open),
        cmocka_unit_test(test_links_to_what_is_gone),
        cmocka_unit_test(test_thousands_gone),
        cmocka_unit_test(test_vanishing_while_threads_read),
        cmocka_unit_test(test_errors_are_told_and_pass),
        cmocka_unit_test(test_one_open_for_each_file),
        cmocka_unit_test(test_open_files_are_kept),
        cmocka_unit_test(test_files_are_announced),
        cmocka_unit_test(test_announcing_waits_for_room),
        cmocka_unit_test(test_no_announcing_for_jumps),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
