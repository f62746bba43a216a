/* SPDX-License-Identifier: Apache-2.0 */
/* SSDT of VMs with a battery: where devices/battery.c has its registers and its interrupt. */
DefinitionBlock ("battery.aml", "SSDT", 2, "TORPOR", "TORPBATT", 0x00000001)
{
	Scope (\_SB)
	{
		Device (GFBY)
		{
			Name (_HID, "GFSH0001")
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xFEA00000, 0x00001000)
				IRQNoFlags () {5}
			})
		}
	}
}
