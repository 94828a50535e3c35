/* SPDX-License-Identifier: MIT
 *
 * Power cuts, on the simulated system (support/os_sim.h). Seeded scripts (script.h; live_script.h for live maps) run,
 * and before every step of them, each write, each sync and all that changes a size or a name, the state of the machine
 * is saved. From each state come several images of what the disk may hold: nothing that was not synced, all of it,
 * random parts, writes that are torn. Each image is opened and must show exactly one generation, byte for byte, no
 * older than the newest that was known to be durable when the power went, with all checksums right (judge.h). The
 * recovery of some is cut at a step, that of a few at each of its steps, and some of those a second time.
 *
 * The processes die at the same points, too, and each sync of a script is made to fail.
 *
 * How many images, from which seed, and how one script is run alone: see campaign.h.
 */
#include "campaign.h"
#include "judge.h"
#include "live_script.h"
#include "support/scratch.h"

static struct script script;

/* ---- transactional maps ------------------------------------------------------------------------------------------ */

static void cut_everywhere(uint64_t seed) {
    script_for_each_point(&script, seed, judge_cuts);
    campaign_add(COUNT_SCRIPTS, 1);
}

static void every_power_cut_leaves_one_generation_no_older_than_the_durable_one(void **state) {
    (void)state;
    campaign_run(cut_everywhere, COUNT_IMAGES_CUTS, 75);
}

static void die_everywhere(uint64_t seed) {
    script_for_each_point(&script, seed, judge_deaths);
    campaign_add(COUNT_SCRIPTS_DEATHS, 1);
}

static void no_death_of_all_processes_loses_an_acknowledged_commit(void **state) {
    (void)state;
    campaign_run(die_everywhere, COUNT_IMAGES_DEATHS, 10);
}

/* False when the n-th sync is none of the script any more. */
static bool fail_sync(uint64_t seed, uint64_t n, uint64_t count) {
    script_prepare(&script, seed);
    script.may_fail = true;
    os_sim_fail(OS_SIM_SYNC, n, count, KM_EIO);
    script_run(&script);
    const bool met = os_sim_failures() > 0;
    if (met && !script.failed)
        script_broken(&script, "sync %llu failed and nobody was told", (unsigned long long)n);
    if (met) {
        os_sim_fail(OS_SIM_SYNC, 0, 0, 0);
        judge_poisoned(&script);
        for (int which = 0; which < HANDLES; which++)
            km_close(script.maps[which]);
        judge_recovery(&script, chance_mix(seed, n) % 3 == 0, chance_mix(n, seed));
        campaign_add(COUNT_FAILED_SYNCS, 1);
    }
    script_forget(&script);
    return met;
}

static void fail_each_sync(uint64_t seed) {
    uint64_t n = 1;
    while (fail_sync(seed, n, n % 4 == 3 ? UINT64_MAX : 1))
        n++;
    if (n < 5)
        campaign_broken(seed, 0, "the script has %llu syncs", (unsigned long long)n - 1);
    campaign_add(COUNT_SCRIPTS_FAILURES, 1);
}

static void a_failed_sync_poisons_the_map_until_all_have_closed(void **state) {
    (void)state;
    campaign_run(fail_each_sync, COUNT_IMAGES_FAILURES, 5);
}

/* ---- live maps --------------------------------------------------------------------------------------------------- */

static void no_power_cut_makes_damage_in_a_live_map_or_loses_what_was_synced(void **state) {
    (void)state;
    campaign_run(live_script_cut_everywhere, COUNT_IMAGES_LIVE, 10);
}

static void no_death_loses_a_store_to_a_live_map_and_only_one_inside_is_told(void **state) {
    (void)state;
    campaign_run(live_script_die_everywhere, COUNT_DEATHS_LIVE, 4);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* A kind that does not occur is one that is not tested, whatever the number of images. */
static void every_kind_of_image_was_tried(void **state) {
    (void)state;
    campaign_report();
    if (campaign_is_single() || campaign_images() < 20000) {
        fprintf(stderr, "# too few scripts for all kinds\n");
        skip();
    }
    for (int count = 0; count < COUNT_END; count++)
        if (campaign_total((enum campaign_count)count) == 0)
            fail_msg("none: %s", campaign_words((enum campaign_count)count));
    assert_true(campaign_total(COUNT_TORN_SLOTS) > campaign_images() / 100);
    assert_true(campaign_total(COUNT_CUT_TWICE) > campaign_images() / 100);
}

int main(void) {
    scratch_time_limit((unsigned)(600 + campaign_images() / 50));
    campaign_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_power_cut_leaves_one_generation_no_older_than_the_durable_one),
        cmocka_unit_test(no_death_of_all_processes_loses_an_acknowledged_commit),
        cmocka_unit_test(a_failed_sync_poisons_the_map_until_all_have_closed),
        cmocka_unit_test(no_power_cut_makes_damage_in_a_live_map_or_loses_what_was_synced),
        cmocka_unit_test(no_death_loses_a_store_to_a_live_map_and_only_one_inside_is_told),
        cmocka_unit_test(every_kind_of_image_was_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
